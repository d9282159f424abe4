//! Several hosts that want one address.

use super::*;

fn claiming(name: &str, age: i64, ports: &[u16]) -> HostDesired {
    let entry = with(entry(&format!("one/{name}"), age, name), |e| {
        e.addresses = vec!["1.2.3.4/32".parse().expect("a network")];
        e.ports = ports.iter().map(|p| port(*p, &format!("p{p}"))).collect();
    });
    built_with(&snapshot([entry]), &Resolved::new(), Vips::default(), name)
}

/// Who serves each port of the address, as `80 a.com`.
fn served(desired: &Desired, keys: &Keys) -> Vec<String> {
    desired.rows(keys, |_| &[]).frontends.iter().map(|(f, key)| format!("{} {}", f.port, key.host)).collect()
}

#[test]
fn the_oldest_has_the_port_and_the_loser_returns_when_it_goes() {
    let (old, young) = (HostName::new("old.com"), HostName::new("a.com"));
    let mut desired = Desired::default();
    let mut keys = desired.set(&young, Some(claiming("a.com", 2, &[80, 81])));
    assert_eq!(served(&desired, &keys), ["80 a.com", "81 a.com"]);
    keys.extend(desired.set(&old, Some(claiming("old.com", 1, &[80]))));
    assert_eq!(served(&desired, &keys), ["80 old.com", "81 a.com"]);
    let touched = desired.set(&old, None);
    assert_eq!(served(&desired, &touched), ["80 a.com"]);
    assert_eq!(desired.user_of(&Address { scope: Scope::Mesh, address: ip("1.2.3.4").into() }), Some(&young));
    let touched = desired.set(&young, None);
    assert_eq!(touched.frontends.len(), 2);
    assert_eq!(desired.rows(&touched, |_| &[]), Tables::default());
}

#[test]
fn an_old_entry_without_the_address_does_not_make_the_claim_older() {
    let in_view = |object: &str, age: i64, address: Option<&str>, export_to: ExportTo| {
        with(entry(object, age, "a.com"), |e| {
            e.addresses = address.iter().map(|a| a.parse().expect("a network")).collect();
            e.export_to = export_to;
        })
    };
    let private = in_view("one/e", 1, None, ExportTo::Namespaces(vec![Namespace::new("one")]));
    let public = in_view("two/e", 3, Some("1.2.3.4/32"), ExportTo::All);
    let mut desired = Desired::default();
    let young = built_with(&snapshot([private, public]), &Resolved::new(), Vips::default(), "a.com");
    let mut keys = desired.set(&HostName::new("a.com"), Some(young));
    keys.extend(desired.set(&HostName::new("b.com"), Some(claiming("b.com", 2, &[80]))));
    assert_eq!(served(&desired, &keys), ["80 b.com"]);
}
