//! Whom a client's certificate names, for a connection whose TLS handshake has verified it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use auth::Credential;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate says.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) credential: Credential,
    /// When it stops being good, on a connection that is open too.
    pub(super) expires: SystemTime,
}

impl Subject {
    /// Reads `CN` and each `O`. A certificate with two common names, or with none, names nobody, and neither does one whose
    /// names are not text.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let mut names = subject.iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return None };
        let organizations = subject.iter_organization().map(|organization| organization.as_str());
        let organizations: Vec<&str> = organizations.collect::<Result<_, _>>().ok()?;
        let credential = Credential::Certificate {
            common_name: name.as_str().ok()?.to_owned(),
            organizations: organizations.into_iter().map(str::to_owned).collect(),
        };
        let expires = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        Some(Self { credential, expires: UNIX_EPOCH + Duration::from_secs(expires) })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// `CN` and `O` by their numbers, so that each may stand there twice.
    const NAME: [u64; 4] = [2, 5, 4, 3];
    const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

    fn subject(parts: &[(DnType, &str)]) -> Option<Credential> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Subject::of(certificate.der()).map(|subject| subject.credential)
    }

    #[test]
    fn a_certificate_has_one_name_and_any_number_of_organizations() {
        let also = |number: [u64; 4]| DnType::CustomDnType(number.to_vec());
        let alice = subject(&[
            (DnType::OrganizationName, "developers"),
            (DnType::CommonName, "alice"),
            (DnType::OrganizationalUnitName, "no group"),
            (also(ORGANIZATION), "testers"),
        ]);
        let Some(Credential::Certificate { common_name, organizations }) = alice else {
            panic!("nobody is named")
        };
        assert_eq!(
            (common_name.as_str(), organizations),
            ("alice", vec!["developers".to_owned(), "testers".to_owned()])
        );

        assert!(subject(&[(DnType::CommonName, "alice"), (also(NAME), "system:admin")]).is_none());
        assert!(subject(&[(DnType::OrganizationName, "developers")]).is_none());
        assert!(Subject::of(&CertificateDer::from(&b"no certificate"[..])).is_none());
    }
}
