//! Frontends, addresses and ranges.
//!
//! In: rows in words. Out: elements of the maps that clients are looked up in. Never: a service or a backend.

use kmesh_se_common::{
    addr::{self, Addr16},
    maps::{
        self, AddressKey, Cidr, CidrKey, FrontendKey, NO_SERVICE, PREFIX_SINGLE, PREFIX_V4, UNLISTED_PASS,
        UNLISTED_REFUSE,
    },
};

use super::{MapError, Maps, Sink};
use crate::{
    desired::{Address, AddressRange, AddressRule, Frontend, Scope, ServiceKey, Unlisted},
    model::Transport,
};

/// The first address of a range and how many of its bits count, as the maps have them.
pub(super) fn place(range: &AddressRange) -> (Addr16, u8) {
    let first = range.first();
    let prefix = match range.single() {
        Some(_) => PREFIX_SINGLE,
        None if first.is_ipv4() => PREFIX_V4 + range.prefix_len(),
        None => range.prefix_len(),
    };
    (addr::from_ip(first), prefix)
}

/// The inverse of [`place`]: none if the maps hold what no sink wrote.
#[must_use]
pub fn range_at(addr: Addr16, prefix: u8) -> Option<AddressRange> {
    let first = addr::to_ip(addr);
    let prefix = if first.is_ipv4() { prefix.checked_sub(PREFIX_V4)? } else { prefix };
    Some(ipnet::IpNet::new(first, prefix).ok()?.into())
}

/// What a port without a frontend gets, as the maps have it.
#[must_use]
pub fn unlisted_of(word: u32) -> Unlisted {
    if word == UNLISTED_REFUSE { Unlisted::Refuse } else { Unlisted::Pass }
}

impl<M: Maps> Sink<M> {
    pub(super) fn set_frontend(&mut self, frontend: &Frontend, service: &ServiceKey) -> Result<(), MapError> {
        // The frontend must not lead to the id of another.
        let id = self.service_id(service).ok_or(MapError::NoService)?;
        let previous = self.actual.frontends.get(frontend).cloned();
        let key = self.frontend_key(frontend);
        self.insert_row(&frontend.scope, previous.is_none(), |maps| maps.insert_frontend(key, id))?;
        self.count_use(Some(service), 1);
        self.count_use(previous.as_ref(), -1);
        Ok(())
    }

    pub(super) fn remove_frontend(&mut self, frontend: &Frontend) -> Result<(), MapError> {
        let Some(service) = self.actual.frontends.get(frontend).cloned() else { return Ok(()) };
        let key = self.frontend_key(frontend);
        self.maps.remove_frontend(key)?;
        self.row_removed(&frontend.scope);
        self.count_use(Some(&service), -1);
        Ok(())
    }

    pub(super) fn set_address(&mut self, address: &Address, rule: &AddressRule) -> Result<(), MapError> {
        let sorts_by = match &rule.sorts_by {
            Some(service) => self.service_id(service).ok_or(MapError::NoService)?,
            None => NO_SERVICE,
        };
        let unlisted = match rule.unlisted {
            Unlisted::Pass => UNLISTED_PASS,
            Unlisted::Refuse => UNLISTED_REFUSE,
        };
        let previous = self.actual.addresses.get(address).cloned();
        let value = maps::Address { unlisted, sorts_by };
        let scope = self.scope_id(&address.scope);
        let (addr, prefix) = place(&address.address);
        if prefix == PREFIX_SINGLE {
            let key = AddressKey { scope, addr };
            self.insert_row(&address.scope, previous.is_none(), |maps| maps.insert_address(key, value))?;
        } else {
            let cidr = Cidr { addr, prefix: prefix.into(), rule: value };
            self.insert_cidr(&address.scope, previous.is_none(), CidrKey::new(scope, addr), cidr)?;
        }
        self.count_use(rule.sorts_by.as_ref(), 1);
        self.count_use(previous.and_then(|previous| previous.sorts_by).as_ref(), -1);
        Ok(())
    }

    fn insert_cidr(&mut self, scope: &Scope, is_new: bool, key: CidrKey, cidr: Cidr) -> Result<(), MapError> {
        if is_new {
            // The programs look for ranges before the first is there.
            self.count_cidrs(1)?;
        }
        let inserted = self.insert_row(scope, is_new, |maps| maps.insert_cidr(key, cidr));
        if inserted.is_err() && is_new {
            self.uncount_cidr();
        }
        inserted
    }

    pub(super) fn remove_address(&mut self, address: &Address) -> Result<(), MapError> {
        let Some(rule) = self.actual.addresses.get(address).cloned() else { return Ok(()) };
        let scope = self.scope_id(&address.scope);
        let (addr, prefix) = place(&address.address);
        if prefix == PREFIX_SINGLE {
            self.maps.remove_address(AddressKey { scope, addr })?;
        } else {
            self.maps.remove_cidr(CidrKey::new(scope, addr), prefix)?;
            self.uncount_cidr();
        }
        self.row_removed(&address.scope);
        self.count_use(rule.sorts_by.as_ref(), -1);
        Ok(())
    }

    /// Counts ranges that are about to be there.
    pub(super) fn count_cidrs(&mut self, more: u32) -> Result<(), MapError> {
        self.maps.set_cidr_count(self.cidrs + more)?;
        self.cidrs += more;
        Ok(())
    }

    fn uncount_cidr(&mut self) {
        self.cidrs -= 1;
        if let Err(error) = self.maps.set_cidr_count(self.cidrs) {
            tracing::warn!(%error, "the programs look for a range that is gone; it costs them a look-up");
        }
    }

    /// Writes a row of a map whose elements are used again. A new one is announced to the workloads of its scope first.
    fn insert_row(
        &mut self,
        scope: &Scope,
        is_new: bool,
        insert: impl FnOnce(&mut M) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        if is_new {
            self.add_row(scope)?;
        }
        match self.settle_hash_elements().and_then(|()| insert(&mut self.maps)) {
            Ok(()) => {
                // The kernel reuses the element that a replaced value had.
                self.limbo.hash_elements |= !is_new;
                Ok(())
            }
            Err(error) => {
                if is_new {
                    self.drop_row(scope);
                }
                Err(error)
            }
        }
    }

    pub(super) fn row_removed(&mut self, scope: &Scope) {
        self.limbo.hash_elements = true;
        self.drop_row(scope);
    }

    /// An inserted element may be one that was just removed and is still being read: waits first.
    pub(super) fn settle_hash_elements(&mut self) -> Result<(), MapError> {
        if self.limbo.hash_elements { self.settle() } else { Ok(()) }
    }

    fn frontend_key(&mut self, frontend: &Frontend) -> FrontendKey {
        let (addr, prefix) = place(&frontend.address);
        FrontendKey {
            scope: self.scope_id(&frontend.scope),
            addr,
            port: frontend.port,
            proto: match frontend.transport {
                Transport::Tcp => 6,
                Transport::Udp => 17,
            },
            prefix,
        }
    }
}
