//! An authority, and what it signs.
//!
//! In: names, a time. Out: certificates with their keys. Never: a decision when.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::CertificateError;

/// Certificates count from a little before they were made: clocks of clients differ.
const BACKDATE: Duration = Duration::from_secs(300);

/// A certificate with its key.
pub struct Issued {
    der: CertificateDer<'static>,
    key: KeyPair,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate of {} until {}", self.made_at(), self.not_after)
    }
}

impl Issued {
    /// Reads one; `name` is what it is called in errors.
    ///
    /// # Errors
    /// It cannot be read, or the key is another one's: make it anew.
    pub(super) fn read(
        name: &'static str,
        der: CertificateDer<'static>,
        key: &PrivatePkcs8KeyDer<'_>,
    ) -> Result<Self, CertificateError> {
        let unreadable = |cause: String| CertificateError::Unreadable { name, cause };
        let key = KeyPair::try_from(key).map_err(|error| unreadable(error.to_string()))?;
        let (not_before, not_after) = {
            let read = parsed(&der).map_err(unreadable)?;
            if read.public_key().raw != key.subject_public_key_info() {
                return Err(CertificateError::Unfit { name, cause: "the key is of another certificate" });
            }
            let time = |at: x509_parser::time::ASN1Time| Timestamp::from_second(at.timestamp());
            let both = time(read.validity.not_before).and_then(|not_before| {
                time(read.validity.not_after).map(|not_after| (not_before, not_after))
            });
            both.map_err(|error| unreadable(error.to_string()))?
        };
        Ok(Self { der, key, not_before, not_after })
    }

    /// Reads one from PEM, the certificate and its key.
    ///
    /// # Errors
    /// It is not one certificate, or the key is another one's: make it anew.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let name = "the certificate";
        let one = read_all([name, "its key"], certificate, key)?.pop();
        one.ok_or(CertificateError::Missing { name })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its key, for a server.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialized_der().to_vec().into())
    }

    /// When it was made.
    #[must_use]
    pub fn made_at(&self) -> Timestamp {
        self.not_before + BACKDATE
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether it counts at this time.
    #[must_use]
    pub fn counts(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether it is for these names and addresses, and no others.
    #[must_use]
    pub fn is_for(&self, hosts: &[String]) -> bool {
        let Ok(read) = parsed(&self.der) else { return false };
        let Ok(Some(names)) = read.subject_alternative_name() else { return hosts.is_empty() };
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => std::net::IpAddr::from(v4).to_string(),
                Err(_) => <[u8; 16]>::try_from(*bytes)
                    .map(|v6| std::net::IpAddr::from(v6).to_string())
                    .unwrap_or_default(),
            },
            other => other.to_string(),
        };
        let (mut has, mut wanted): (Vec<_>, Vec<_>) =
            (names.value.general_names.iter().map(text).collect(), hosts.to_vec());
        has.sort();
        wanted.sort();
        has == wanted
    }

    /// As PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.der.as_ref()))
    }

    /// Its key as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// Who signs.
#[derive(Debug)]
pub struct Authority(Issued);

impl Authority {
    /// Makes one that counts for `lifetime` from `now`. It signs certificates, and no further authorities.
    ///
    /// # Errors
    /// The machine has no random numbers, say.
    pub fn make(now: Timestamp, lifetime: Duration) -> Result<Self, CertificateError> {
        let mut params = params(Vec::new(), now, now + lifetime)?;
        // Two that are trusted at one time are told apart.
        params.distinguished_name.push(DnType::CommonName, format!("kmesh-se {now}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(|source| CertificateError::Make { source })?;
        let made = params.self_signed(&key).map_err(|source| CertificateError::Make { source })?;
        Issued::read("the authority", made.der().clone(), &key.serialized_der().into()).map(Self)
    }

    /// One that was kept.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn new(issued: Issued, name: &'static str) -> Result<Self, CertificateError> {
        let is_authority = parsed(&issued.der).is_ok_and(|read| read.is_ca());
        let cause = "it may not sign certificates";
        if is_authority { Ok(Self(issued)) } else { Err(CertificateError::Unfit { name, cause }) }
    }

    /// Its own certificate, which clients trust.
    #[must_use]
    pub fn issued(&self) -> &Issued {
        &self.0
    }

    /// Signs a certificate for a server that is called by any of `hosts`, names or addresses. It ends with the authority.
    ///
    /// # Errors
    /// A host is neither.
    pub fn sign_server(
        &self,
        hosts: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Issued, CertificateError> {
        let mut params = params(hosts.to_vec(), now, (now + lifetime).min(self.0.not_after))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// Signs a certificate for a client that is who `uri` says. It ends with the authority.
    ///
    /// # Errors
    /// It has letters that are not ASCII.
    pub fn sign_client(
        &self,
        uri: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Issued, CertificateError> {
        let mut params = params(Vec::new(), now, (now + lifetime).min(self.0.not_after))?;
        let uri = uri.try_into().map_err(|source| CertificateError::Make { source })?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Issued, CertificateError> {
        let made = || {
            let own = KeyPair::try_from(self.0.key.serialized_der())?;
            let issuer = Issuer::from_ca_cert_der(&self.0.der, own)?;
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &issuer)?, key))
        };
        let (made, key) = made().map_err(|source| CertificateError::Make { source })?;
        Issued::read("the certificate", made.der().clone(), &key.serialized_der().into())
    }

    /// Whether it signed this one.
    #[must_use]
    pub fn signed(&self, other: &Issued) -> bool {
        let (Ok(own), Ok(other)) = (parsed(&self.0.der), parsed(&other.der)) else { return false };
        other.issuer() == own.subject() && other.verify_signature(Some(own.public_key())).is_ok()
    }
}

/// Who a client is by its certificate: the one URI that it says.
#[must_use]
pub fn client_uri(certificate: &CertificateDer<'_>) -> Option<String> {
    let read = parsed(certificate).ok()?;
    let names = read.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Some((*uri).to_owned()),
        _ => None,
    }
}

fn params(
    hosts: Vec<String>,
    now: Timestamp,
    until: Timestamp,
) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(hosts).map_err(|source| CertificateError::Make { source })?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Years that a certificate can have are years that this has.
    let time = |at: Timestamp| {
        OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    (params.not_before, params.not_after) = (time(now - BACKDATE), time(until));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], read)) => Ok(read),
        Ok(_) => Err("bytes follow the certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// All certificates of a text with their keys, in its order.
pub(super) fn read_all(
    [certificate_name, key_name]: [&'static str; 2],
    certificates: &[u8],
    keys: &[u8],
) -> Result<Vec<Issued>, CertificateError> {
    let unreadable = |name, cause: String| CertificateError::Unreadable { name, cause };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(certificate_name, error.to_string()))?;
    let keys: Vec<_> = PrivatePkcs8KeyDer::pem_slice_iter(keys)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(key_name, error.to_string()))?;
    if certificates.is_empty() {
        return Err(CertificateError::Missing { name: certificate_name });
    }
    if certificates.len() != keys.len() {
        let cause = "there are as many keys as certificates";
        return Err(CertificateError::Unfit { name: key_name, cause });
    }
    let both = certificates.into_iter().zip(&keys);
    both.map(|(certificate, key)| Issued::read(certificate_name, certificate, key)).collect()
}
