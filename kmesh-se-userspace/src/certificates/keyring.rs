//! An authority in use: what servers show, what clients trust, and the passage from one authority to the next.
//!
//! In: what was kept, the time, a [`Policy`]. Out: what is to be kept and used from now on. Never: a certificate of an authority that clients
//! were not told of a while before.
//!
//! A new authority is trusted beside the old one for a while before it signs; then it signs, and the old one is trusted until
//! every server shows the new certificate.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{Authority, CertificateError, Issued, authority::read_all};

/// What is kept, by the names that Kubernetes uses.
const AUTHORITY: [&str; 2] = ["ca.crt", "ca.key"];
const SERVING: [&str; 2] = ["tls.crt", "tls.key"];
/// An authority counts for as many lifetimes of what it signs.
const AUTHORITY_LIFETIMES: u32 = 4;
/// The longest that a change of authorities waits for those who are to know of it.
const SETTLE_MAX: Duration = Duration::from_secs(3600);

/// How certificates are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// By which names or addresses the server is called.
    pub hosts: Vec<String>,
    /// For how long its certificate counts. A new one is made when a third is left.
    pub lifetime: Duration,
}

impl Policy {
    /// How long a change of authorities waits for those who are to know of it.
    #[must_use]
    pub fn settle(&self) -> Duration {
        (self.lifetime / 10).min(SETTLE_MAX)
    }

    fn authority_lifetime(&self) -> Duration {
        self.lifetime * AUTHORITY_LIFETIMES
    }
}

/// Authorities, the newest first, and what servers show.
#[derive(Clone, Debug)]
pub struct Keyring {
    authorities: Vec<Arc<Authority>>,
    serving: Arc<Issued>,
}

impl Keyring {
    /// Reads what was kept; none when nothing was.
    ///
    /// # Errors
    /// Something is missing, or does not belong together: make it anew.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Option<Self>, CertificateError> {
        let names = [AUTHORITY, SERVING].concat();
        if names.iter().all(|name| files.get(*name).is_none_or(Vec::is_empty)) {
            return Ok(None);
        }
        let file = |name| files.get(name).ok_or(CertificateError::Missing { name });
        let pairs = |names: [&'static str; 2]| read_all(names, file(names[0])?, file(names[1])?);
        let authorities =
            pairs(AUTHORITY)?.into_iter().map(|issued| Authority::new(issued, AUTHORITY[0]).map(Arc::new));
        let authorities: Vec<_> = authorities.collect::<Result<_, _>>()?;
        let mut serving = pairs(SERVING)?;
        let unfit = |cause| Err(CertificateError::Unfit { name: SERVING[0], cause });
        let (Some(serving), true) = (serving.pop(), serving.is_empty()) else {
            return unfit("it is one certificate");
        };
        let read = Self { authorities, serving: Arc::new(serving) };
        if !read.signed(&read.serving) {
            return unfit("none of the authorities signed it");
        }
        Ok(Some(read))
    }

    /// What is to be kept.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let keys: String = self.authorities.iter().map(|authority| authority.issued().key_pem()).collect();
        let [authority, authority_key] = AUTHORITY;
        let [serving, serving_key] = SERVING;
        [
            (authority, self.bundle()),
            (authority_key, keys),
            (serving, self.serving.pem()),
            (serving_key, self.serving.key_pem()),
        ]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .collect()
    }

    /// The authorities that clients are to trust, as PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.authorities.iter().map(|authority| authority.issued().pem()).collect()
    }

    /// The authorities that clients are to trust, and whose clients are.
    pub fn authorities(&self) -> impl Iterator<Item = &Issued> {
        self.authorities.iter().map(|authority| authority.issued())
    }

    /// Whether one of the authorities signed this one.
    #[must_use]
    pub fn signed(&self, other: &Issued) -> bool {
        self.authorities.iter().any(|authority| authority.signed(other))
    }

    /// Signs a certificate for a client, by the authority that signed what servers show.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn sign_client(
        &self,
        uri: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Issued, CertificateError> {
        let signed = |authority: &&Arc<Authority>| authority.signed(&self.serving);
        // Some authority of a keyring signed what is shown.
        let signer = self.authorities.iter().find(signed).or(self.authorities.first());
        let signer = signer.ok_or(CertificateError::Missing { name: AUTHORITY[0] })?;
        signer.sign_client(uri, now, lifetime)
    }

    /// What servers show.
    #[must_use]
    pub fn serving(&self) -> &Arc<Issued> {
        &self.serving
    }

    /// When the newest authority ends.
    #[must_use]
    pub fn authority_ends(&self) -> Timestamp {
        self.authorities.first().map_or(Timestamp::UNIX_EPOCH, |authority| authority.issued().not_after())
    }

    /// What follows on `before` at this time; none when it is to stay as it is. With `is_lost`, what was kept is lost, `before` is
    /// what is remembered of it, and others may have it: a new authority takes its place.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn next(
        before: Option<&Self>,
        now: Timestamp,
        policy: &Policy,
        is_lost: bool,
    ) -> Result<Option<Self>, CertificateError> {
        let settled = |issued: &Issued| issued.made_at() + policy.settle() <= now;
        let known = before.map(|before| before.authorities.as_slice()).unwrap_or_default();
        let mut authorities: Vec<_> =
            known.iter().filter(|authority| authority.issued().counts(now)).cloned().collect();
        let lifetime = policy.authority_lifetime();
        let is_over =
            |newest: &Issued| is_due(newest.not_after(), now, lifetime) || is_lost && settled(newest);
        if authorities.first().is_none_or(|newest| is_over(newest.issued())) {
            authorities.insert(0, Arc::new(Authority::make(now, lifetime)?));
        }
        // The newest that clients have been told of for a while; without any, the one that they know for longest.
        let signer = authorities.iter().position(|authority| settled(authority.issued()));
        let signer = signer.unwrap_or(authorities.len() - 1);

        let authority = &authorities[signer];
        let stays = |serving: &&Arc<Issued>| {
            // The signer's end may be near, too, until the next one signs.
            let ends = (now + policy.lifetime).min(authority.issued().not_after());
            let is_worth_it = ends > serving.not_after() + policy.lifetime / 10;
            let is_old = is_due(serving.not_after(), now, policy.lifetime) && is_worth_it;
            serving.counts(now) && !is_old && serving.is_for(&policy.hosts) && authority.signed(serving)
        };
        let serving = match before.map(|before| &before.serving).filter(stays) {
            Some(serving) => serving.clone(),
            None => Arc::new(authority.sign_server(&policy.hosts, now, policy.lifetime)?),
        };
        if settled(&serving) {
            authorities.truncate(signer + 1);
        }
        let is_same = before.is_some_and(|before| {
            let pairs = before.authorities.iter().zip(&authorities);
            before.authorities.len() == authorities.len()
                && pairs.into_iter().all(|(one, other)| Arc::ptr_eq(one, other))
                && Arc::ptr_eq(&before.serving, &serving)
        });
        Ok((!is_same || is_lost).then_some(Self { authorities, serving }))
    }
}

/// Whether a third of `lifetime` is left at most of what counts until `not_after`: it is to be made anew.
#[must_use]
pub fn is_due(not_after: Timestamp, now: Timestamp, lifetime: Duration) -> bool {
    now + lifetime / 3 >= not_after
}
