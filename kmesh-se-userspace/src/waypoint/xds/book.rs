//! The services as they are to be told: by the name of their resources, with the version of each.
//!
//! In: services. Out: records that are replaced, never changed. Never: encoded resources, which are made when they are sent.
//!
//! Those who answer for a service beside itself are parts of it: records of clusters only, each with a name of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use envoy_types::pb::google::protobuf::Any;

use crate::{
    desired::ServiceKey,
    model::Others,
    waypoint::{
        Other, Service, Settings,
        resources::{self, Kind},
    },
};

/// One service, or a part of one.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: Arc<str>,
    pub(super) key: ServiceKey,
    pub(super) service: Service,
    /// Those who answer beside it: what its route may lead to.
    pub(super) parts: Vec<Arc<Record>>,
    versions: [Option<u64>; Kind::ALL.len()],
}

impl Record {
    pub(super) fn new(key: &ServiceKey, service: Service, settings: &Settings) -> Self {
        let name = resources::name(key);
        let part = |(other, of): (&Arc<str>, &Other)| {
            let Other { protocol, discovery, endpoints, .. } = of.clone();
            let (rules, others) = (Vec::new(), Others::new());
            let service = Service { listener_port: 0, protocol, discovery, endpoints, rules, others };
            let name = resources::part_name(&name, other);
            Arc::new(Self::of(name, key, service, settings, &[Kind::Cluster, Kind::Endpoints]))
        };
        let parts = service.others.iter().map(part).collect();
        Self { parts, ..Self::of(name, key, service, settings, &Kind::ALL) }
    }

    fn of(name: String, key: &ServiceKey, service: Service, settings: &Settings, kinds: &[Kind]) -> Self {
        let version = |kind: Kind| {
            let resource = || resources::resource(kind, &name, key, &service, settings);
            let resource = kinds.contains(&kind).then(resource).flatten();
            resource.map(|resource| resources::version(&resource))
        };
        let versions = Kind::ALL.map(version);
        Self { name: name.into(), key: key.clone(), service, parts: Vec::new(), versions }
    }

    /// The version of the resource of this kind; none if the service needs none.
    pub(super) fn version(&self, kind: Kind) -> Option<u64> {
        self.versions[kind as usize]
    }

    /// The kinds of resources that the service needs.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.version(*kind).is_some())
    }

    /// Itself and its parts.
    pub(super) fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.parts.iter().map(Arc::as_ref))
    }

    /// The resource of this kind.
    pub(super) fn resource(&self, kind: Kind, settings: &Settings) -> Option<Any> {
        self.version(kind)?;
        resources::resource(kind, &self.name, &self.key, &self.service, settings)
    }
}

/// All services and their parts, by the name of their resources.
pub(super) type Book = BTreeMap<Arc<str>, Arc<Record>>;

/// Sets the service of this name, or removes it (none); returns what it was before, and the names of all that have changed.
pub(super) fn set(
    book: &mut Book,
    name: &Arc<str>,
    record: Option<Arc<Record>>,
) -> (Option<Arc<Record>>, BTreeSet<Arc<str>>) {
    let before = book.remove(name);
    let mut changed = BTreeSet::from([Arc::clone(name)]);
    for part in before.iter().flat_map(|record| &record.parts) {
        book.remove(&part.name);
        let now = record.iter().flat_map(|record| &record.parts).find(|now| now.name == part.name);
        if now.is_none_or(|now| now.service != part.service) {
            changed.insert(Arc::clone(&part.name));
        }
    }
    for part in record.iter().flat_map(|record| &record.parts) {
        let is_new = before.iter().flat_map(|record| &record.parts).all(|before| before.name != part.name);
        changed.extend(is_new.then(|| Arc::clone(&part.name)));
        book.insert(Arc::clone(&part.name), Arc::clone(part));
    }
    if let Some(record) = record {
        book.insert(Arc::clone(name), record);
    }
    (before, changed)
}

/// The services that these names are of, or of parts of.
pub(super) fn wholes<'a>(book: &'a Book, names: &BTreeSet<Arc<str>>) -> Vec<&'a Arc<Record>> {
    let wholes: BTreeSet<&str> = names.iter().map(|name| resources::whole_of(name).unwrap_or(name)).collect();
    wholes.into_iter().filter_map(|name| book.get(name)).collect()
}
