//! What a client may have meant: the name that it asked for, without a domain of its search list.
//!
//! In: the domains that clients search, and a name. Out: the names that it may stand for. Never: a look-up.

use std::iter;

use crate::model::{HostName, Namespace};

/// The search list of clients: what their `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    cluster: Option<HostName>,
    domains: Vec<HostName>,
}

impl Search {
    /// The list of a pod, `<namespace>.svc.<cluster>`, `svc.<cluster>` and `<cluster>`, if there is a cluster domain, and
    /// then `domains`, which are the same for every namespace.
    #[must_use]
    pub fn new(cluster: Option<HostName>, domains: impl IntoIterator<Item = HostName>) -> Self {
        let is_domain = |domain: &HostName| !domain.as_str().is_empty();
        Self { cluster: cluster.filter(is_domain), domains: domains.into_iter().filter(is_domain).collect() }
    }

    /// `name` itself, then what is left of it without each domain that it ends in, in the order of the list.
    pub(super) fn aliases<'a>(
        &'a self,
        namespace: &'a Namespace,
        name: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        let of_cluster = self.cluster.iter().flat_map(move |cluster| {
            let name = without(name, cluster.as_str());
            let service = name.and_then(|name| without(name, "svc"));
            let own = service.and_then(|service| without(service, namespace.as_str()));
            [own, service, name].into_iter().flatten()
        });
        let of_domains = self.domains.iter().filter_map(move |domain| without(name, domain.as_str()));
        iter::once(name).chain(of_cluster).chain(of_domains)
    }
}

/// What stands before `.domain`.
fn without<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    name.strip_suffix(domain)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_itself_and_for_what_a_search_makes_it_of() {
        let domains = ["corp.test", "Test.", ".", ""].map(HostName::new);
        let search = Search::new(Some(HostName::new("cluster.local.")), domains);
        let namespace = Namespace::new("shop");
        for (name, wanted) in [
            ("a.com", &["a.com"][..]),
            (
                "a.com.shop.svc.cluster.local",
                &["a.com.shop.svc.cluster.local", "a.com", "a.com.shop", "a.com.shop.svc"],
            ),
            (
                "a.com.other.svc.cluster.local",
                &["a.com.other.svc.cluster.local", "a.com.other", "a.com.other.svc"],
            ),
            ("a.com.cluster.local", &["a.com.cluster.local", "a.com"]),
            ("a.corp.test", &["a.corp.test", "a", "a.corp"]),
            ("shop.svc.cluster.local", &["shop.svc.cluster.local", "shop", "shop.svc"]),
            ("acluster.local", &["acluster.local"]),
            ("cluster.local", &["cluster.local"]),
            ("", &[""]),
        ] {
            let aliases: Vec<_> = search.aliases(&namespace, name).collect();
            assert_eq!(aliases, wanted, "{name}");
        }
        let none = Search::new(Some(HostName::new("")), []);
        assert_eq!(none, Search::default());
        assert_eq!(none.aliases(&namespace, "a.shop.svc.cluster.local").count(), 1);
    }
}
