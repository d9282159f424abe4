//! Who may ask, and what the names of each may stand for.
//!
//! In: a table of addresses, once somebody knows whose they are. Out: [`Access`]. Never: a namespace guessed from an
//! address: the port that was asked says it, and the address must agree.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError, RwLock},
};

use super::Search;
use crate::{
    desired::User,
    model::{HostName, Namespace},
};

/// One who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Whose view it has.
    pub namespace: &'a Namespace,
    /// Where it asks from.
    pub address: IpAddr,
    /// The domains that it searches.
    pub search: &'a Search,
}

impl<'a> Client<'a> {
    /// Any client of `namespace`, for who only wants to know what it would be answered.
    #[must_use]
    pub fn of(namespace: &'a Namespace, search: &'a Search) -> Self {
        Self { namespace, address: Ipv4Addr::UNSPECIFIED.into(), search }
    }

    /// The same as a user of names on demand.
    #[must_use]
    pub fn user(&self) -> User {
        User::new(self.namespace.clone(), self.address)
    }
}

/// What a query gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Our names, and what the resolver says of others, to a client that searches these domains.
    Answer(Arc<Search>),
    /// What the resolver says: the client is not handled any more, but still asks here.
    Forward,
    /// Nothing.
    Refuse,
}

/// The clients of this node.
#[derive(Debug, Default)]
pub struct Clients {
    /// What everybody searches as long as there is no table.
    search: Arc<Search>,
    table: RwLock<Option<ClientTable>>,
}

/// Whose addresses are whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTable {
    known: HashMap<IpAddr, HashMap<Namespace, Known>>,
    expected: HashMap<Namespace, Known>,
}

/// The clients of one namespace at one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    is_served: bool,
    domains: Vec<HostName>,
    search: Arc<Search>,
}

impl Known {
    fn serve(&mut self, domains: &[HostName]) {
        // Several behind one address search what any of them does.
        let new: Vec<_> = domains.iter().filter(|domain| !self.domains.contains(domain)).cloned().collect();
        self.domains.extend(new);
        self.search = Arc::new(Search::new(None, self.domains.iter().cloned()));
        self.is_served = true;
    }

    fn access(&self) -> Access {
        if self.is_served { Access::Answer(self.search.clone()) } else { Access::Forward }
    }
}

impl ClientTable {
    /// The clients of `namespace` at this address get our names.
    pub fn serve(&mut self, address: IpAddr, namespace: &Namespace, domains: &[HostName]) {
        self.known.entry(address).or_default().entry(namespace.clone()).or_default().serve(domains);
    }

    /// Those at this address did, and get the resolver's now.
    pub fn forward(&mut self, address: IpAddr, namespace: &Namespace) {
        self.known.entry(address).or_default().entry(namespace.clone()).or_default();
    }

    /// Whoever is at this address gets nothing, unless something else is said of it.
    pub fn refuse(&mut self, address: IpAddr) {
        self.known.entry(address).or_default();
    }

    /// A client of `namespace` will ask from an address of which nothing is known yet.
    pub fn expect(&mut self, namespace: &Namespace, domains: &[HostName]) {
        self.expected.entry(namespace.clone()).or_default().serve(domains);
    }

    fn access(&self, namespace: &Namespace, address: IpAddr) -> Access {
        let at = match self.known.get(&address) {
            Some(namespaces) => namespaces.get(namespace),
            None => self.expected.get(namespace),
        };
        at.map_or(Access::Refuse, Known::access)
    }
}

impl Clients {
    /// Everybody, and they search these domains.
    #[must_use]
    pub fn everybody(search: Search) -> Self {
        Self { search: Arc::new(search), table: RwLock::default() }
    }

    /// Only these, from now on.
    pub fn set(&self, table: ClientTable) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(table);
    }

    /// What a query from `address` gets at a port of `namespace`.
    #[must_use]
    pub fn access(&self, namespace: &Namespace, address: IpAddr) -> Access {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let address = address.to_canonical();
        let address = if address.is_loopback() { Ipv4Addr::LOCALHOST.into() } else { address };
        match &*table {
            None => Access::Answer(self.search.clone()),
            Some(table) => table.access(namespace, address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(texts: &[&str]) -> Vec<HostName> {
        texts.iter().map(|text| HostName::new(text)).collect()
    }

    fn answer(texts: &[&str]) -> Access {
        Access::Answer(Arc::new(Search::new(None, domains(texts))))
    }

    #[test]
    fn everybody_is_answered_until_it_is_known_who_is_who() {
        let (shop, pod) = (Namespace::new("shop"), IpAddr::from([10, 0, 0, 1]));
        let clients = Clients::everybody(Search::new(None, domains(&["a.test"])));
        assert_eq!(clients.access(&shop, pod), answer(&["a.test"]));
        clients.set(ClientTable::default());
        assert_eq!(clients.access(&shop, pod), Access::Refuse);
    }

    #[test]
    fn the_address_must_agree_with_the_port() {
        let [shop, other] = ["shop", "other"].map(Namespace::new);
        let [pod, second, left, plain, node, stranger] =
            [1, 2, 3, 4, 5, 6].map(|n| IpAddr::from([10, 0, 0, n]));
        let mut table = ClientTable::default();
        table.serve(pod, &shop, &domains(&["shop.test"]));
        table.serve(second, &other, &[]);
        table.forward(left, &shop);
        table.refuse(plain);
        // Two in the node's network.
        table.serve(node, &shop, &domains(&["a.test", "b.test"]));
        table.serve(node, &shop, &domains(&["b.test", "c.test"]));
        let clients = Clients::default();
        clients.set(table.clone());
        for (address, of_shop, of_other) in [
            (pod, answer(&["shop.test"]), Access::Refuse),
            (second, Access::Refuse, answer(&[])),
            (left, Access::Forward, Access::Refuse),
            (plain, Access::Refuse, Access::Refuse),
            (node, answer(&["a.test", "b.test", "c.test"]), Access::Refuse),
            (stranger, Access::Refuse, Access::Refuse),
            ("::ffff:10.0.0.1".parse().expect("an address"), answer(&["shop.test"]), Access::Refuse),
        ] {
            assert_eq!(clients.access(&shop, address), of_shop, "{address} shop");
            assert_eq!(clients.access(&other, address), of_other, "{address} other");
        }
        // A pod whose address is not known yet.
        table.expect(&other, &domains(&["other.test"]));
        clients.set(table);
        assert_eq!(clients.access(&other, stranger), answer(&["other.test"]));
        assert_eq!(clients.access(&shop, stranger), Access::Refuse);
        assert_eq!(clients.access(&other, plain), Access::Refuse, "another pod's");
    }

    #[test]
    fn loopback_is_one_address() {
        let shop = Namespace::new("shop");
        let mut table = ClientTable::default();
        table.serve(Ipv4Addr::LOCALHOST.into(), &shop, &[]);
        let clients = Clients::default();
        clients.set(table);
        for address in ["127.0.0.1", "127.0.0.9", "::1"] {
            assert_eq!(clients.access(&shop, address.parse().expect("an address")), answer(&[]), "{address}");
        }
    }
}
