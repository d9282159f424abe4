//! The services as they are to be told: by the name of their resources, with the version of each.
//!
//! In: services. Out: records that are replaced, never changed. Never: encoded resources, which are made when they are sent.

use std::{collections::BTreeMap, sync::Arc};

use envoy_types::pb::google::protobuf::Any;

use crate::{
    desired::ServiceKey,
    waypoint::{
        Service, Settings,
        resources::{self, Kind},
    },
};

/// One service.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: Arc<str>,
    pub(super) key: ServiceKey,
    pub(super) service: Service,
    versions: [Option<u64>; Kind::ALL.len()],
}

impl Record {
    pub(super) fn new(key: &ServiceKey, service: Service, settings: &Settings) -> Self {
        let version = |kind| {
            let resource = resources::resource(kind, key, &service, settings);
            resource.map(|resource| resources::version(&resource))
        };
        let versions = Kind::ALL.map(version);
        Self { name: resources::name(key).into(), key: key.clone(), service, versions }
    }

    /// The version of the resource of this kind; none if the service needs none.
    pub(super) fn version(&self, kind: Kind) -> Option<u64> {
        self.versions[kind as usize]
    }

    /// The kinds of resources that the service needs.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.version(*kind).is_some())
    }

    /// The resource of this kind.
    pub(super) fn resource(&self, kind: Kind, settings: &Settings) -> Option<Any> {
        resources::resource(kind, &self.key, &self.service, settings)
    }
}

/// All services, by the name of their resources.
pub(super) type Book = BTreeMap<Arc<str>, Arc<Record>>;
