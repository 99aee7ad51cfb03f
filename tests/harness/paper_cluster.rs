//! A cluster on paper: the key that it signs tokens with, and a folder of the objects that `kubectl apply` would give it.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{registry::overlay, secrets};

const ISSUER: &str = "https://kubernetes.default.svc";
const AUDIENCE: &str = "image-registry";

/// Signs tokens of service accounts, and keeps the bindings.
pub(crate) struct PaperCluster {
    folder: TempDir,
    key: EcdsaKeyPair,
}

impl PaperCluster {
    /// A cluster in which nobody may do anything yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("wharf-cluster-").tempdir().unwrap();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let public = BASE64_STANDARD.encode(public.as_ref());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
        fs::write(folder.path().join("sa.pub"), pem).unwrap();
        fs::create_dir(folder.path().join("rbac")).unwrap();
        Self { folder, key }
    }

    /// The settings of a registry that obeys it.
    pub(crate) fn settings(&self) -> Value {
        let folder = self.folder.path();
        json!({ "auth": { "kubernetes": {
            "folder": folder.join("rbac"),
            "issuers": [{ "issuer": ISSUER, "keys": self.public_key() }],
            "audiences": [AUDIENCE],
        } } })
    }

    /// The configuration file of such a registry, with `settings` laid over it, and its path.
    pub(crate) fn configuration(&self, settings: &Value) -> String {
        let mut configuration = json!({ "version": 0.1, "storage": { "delete": { "enabled": true } } });
        overlay(&mut configuration, &self.settings());
        overlay(&mut configuration, settings);
        let path = self.folder.path().join("config.yml");
        fs::write(&path, configuration.to_string()).unwrap();
        path.to_str().expect("temporary paths are text").to_owned()
    }

    /// The folder of its objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.folder.path().join("rbac")
    }

    /// Puts an object there as `kubectl apply` would. A registry obeys it within seconds.
    pub(crate) fn apply(&self, name: &str, yaml: &str) {
        // Renamed, so that no registry reads half of it.
        let unfinished = self.folder.path().join(name);
        fs::write(&unfinished, yaml).unwrap();
        fs::rename(unfinished, self.folder.path().join("rbac").join(format!("{name}.yaml"))).unwrap();
    }

    /// Takes away what was applied.
    pub(crate) fn delete(&self, name: &str) {
        fs::remove_file(self.folder.path().join("rbac").join(format!("{name}.yaml"))).unwrap();
    }

    /// The token of a service account, good for an hour.
    pub(crate) fn token(&self, namespace: &str, name: &str) -> String {
        self.token_with(namespace, name, &json!({}))
    }

    /// The same with other claims laid over it.
    pub(crate) fn token_with(&self, namespace: &str, name: &str, claims: &Value) -> String {
        let mut all = Self::claims(namespace, name);
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.sign(&json!({ "alg": "ES256" }).to_string(), &all.to_string())
    }

    /// What the token of a service account says that is good for an hour.
    pub(crate) fn claims(namespace: &str, name: &str) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        json!({
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": (now + Duration::from_secs(3600)).as_secs(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": name, "uid": format!("uid of {namespace}/{name}") },
            },
        })
    }

    /// A token whose header and claims are these texts, whatever they are.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        secrets::keep(&token);
        token
    }

    /// The file of the key that its tokens are verified by, PEM.
    pub(crate) fn public_key(&self) -> PathBuf {
        self.folder.path().join("sa.pub")
    }

    /// That key as an entry of a JSON Web Key Set, named as Kubernetes does.
    pub(crate) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let der: PublicKeyX509Der<'_> = self.key.public_key().as_der().unwrap();
        let id = encode(digest(&SHA256, der.as_ref()).as_ref());
        // A point that is not compressed: a mark, then 32 bytes for each coordinate.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id, "x": encode(x), "y": encode(y) })
    }
}

/// The binding of the Kubernetes documentation: in `namespace`, the service account `name` of it gets the role `role`.
pub(crate) fn binding(namespace: &str, name: &str, role: &str) -> String {
    bind(namespace, role, &format!("ServiceAccount\n  name: {name}\n  namespace: {namespace}"))
}

/// The same for a `User` or a `Group`: for a subject of this `kind`.
pub(crate) fn binding_of(kind: &str, namespace: &str, name: &str, role: &str) -> String {
    bind(namespace, role, &format!("{kind}\n  name: {name}\n  apiGroup: rbac.authorization.k8s.io"))
}

fn bind(namespace: &str, role: &str, subject: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {role}
  namespace: {namespace}
subjects:
- kind: {subject}
roleRef:
  kind: ClusterRole
  name: {role}
  apiGroup: rbac.authorization.k8s.io
"
    )
}
