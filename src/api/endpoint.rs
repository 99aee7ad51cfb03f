//! What a path means. This is the only code that takes the path of a request apart.
//!
//! A repository's name may hold slashes and may look like the rest of a path (`a/blobs/uploads`, `x/manifests`), so a path
//! is read from its end. It is split first and each segment decoded after, once, so that an escaped slash never
//! separates a repository from what follows it.

use std::borrow::Cow;
use std::fmt;

use axum::http::Method;
use percent_encoding::percent_decode_str;
use storage::{
    Digest, DigestError, Reference, ReferenceError, RepositoryName, RepositoryNameError, Tag, TagError,
    UploadId,
};

use crate::api::error::ApiError;
use crate::route::Route;

/// A resource of the API. It prints as its path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `/v2/`: is there a registry, and may I use it?
    Base,
    /// `/v2/_catalog`: the names of the repositories.
    Catalog,
    /// `/v2/_oci/ext/discover`, and the same below a repository: which extensions there are.
    Extensions {
        /// The repository asked about, or none for the whole registry.
        repository: Option<RepositoryName>,
    },
    /// `/v2/<name>/blobs/<digest>`
    Blob {
        /// The repository that holds the blob.
        repository: RepositoryName,
        /// The blob's digest.
        digest: Digest,
    },
    /// `/v2/<name>/manifests/<reference>`
    Manifest {
        /// The repository that holds the manifest.
        repository: RepositoryName,
        /// Its tag or digest.
        reference: Reference,
    },
    /// `/v2/<name>/blobs/uploads/`: where uploads begin.
    Uploads {
        /// The repository to upload to.
        repository: RepositoryName,
    },
    /// `/v2/<name>/blobs/uploads/<uuid>`: one upload under way.
    Upload {
        /// The repository it was begun in.
        repository: RepositoryName,
        /// Its id.
        id: UploadId,
    },
    /// `/v2/<name>/tags/list`
    Tags {
        /// The repository whose tags they are.
        repository: RepositoryName,
    },
    /// `/v2/<name>/referrers/<digest>`: the manifests whose subject that is.
    Referrers {
        /// The repository that holds them.
        repository: RepositoryName,
        /// The digest of the subject, which need not exist.
        subject: Digest,
    },
}

/// What a caller must be allowed to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Right {
    /// To log in, and nothing more.
    Login,
    /// To list the names of all repositories.
    Catalog,
    /// To read from a repository.
    Pull,
    /// To write to a repository. Cancelling an upload is part of it.
    Push,
    /// To delete from a repository.
    Delete,
}

/// Why a path means nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathError {
    /// It has the form of no endpoint.
    NoEndpoint,
    /// There is no such upload: its id is not an id.
    Upload,
    /// The repository's name is not one.
    Name(RepositoryNameError),
    /// What should be a digest is not one.
    Digest(DigestError),
    /// What should be a tag is not one.
    Tag {
        /// The repository.
        repository: RepositoryName,
        /// The beginning of what should be a tag.
        tag: String,
        /// What is wrong with it.
        error: TagError,
    },
}

impl Endpoint {
    /// Reads the path of a request's URL, as it was sent.
    ///
    /// # Errors
    /// [`PathError::answer_to`] knows the answer to each.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let rest = match path.strip_prefix("/v2") {
            None => return Err(PathError::NoEndpoint),
            Some("") => return Ok(Self::Base),
            Some(rest) => rest.strip_prefix('/').ok_or(PathError::NoEndpoint)?,
        };
        let (rest, last) = split_last(rest);
        let Some(rest) = rest else {
            return match &*last {
                "" => Ok(Self::Base),
                "_catalog" => Ok(Self::Catalog),
                _ => Err(PathError::NoEndpoint),
            };
        };
        let (rest, kind) = split_last(rest);
        match (&*kind, &*last) {
            ("ext", "discover") => match rest.map(split_last) {
                Some((rest, extension)) if extension == "_oci" => {
                    Ok(Self::Extensions { repository: rest.map(|name| Self::name(Some(name))).transpose()? })
                }
                _ => Err(PathError::NoEndpoint),
            },
            ("uploads", id) => match rest.map(split_last) {
                Some((rest, blobs)) if blobs == "blobs" => {
                    let repository = Self::name(rest)?;
                    if id.is_empty() {
                        return Ok(Self::Uploads { repository });
                    }
                    Ok(Self::Upload { repository, id: id.parse().map_err(|_| PathError::Upload)? })
                }
                _ => Err(PathError::NoEndpoint),
            },
            ("blobs", "uploads") => Ok(Self::Uploads { repository: Self::name(rest)? }),
            ("blobs", digest) => Ok(Self::Blob { repository: Self::name(rest)?, digest: digest.parse()? }),
            ("manifests", text) => {
                let repository = Self::name(rest)?;
                match text.parse() {
                    Ok(reference) => Ok(Self::Manifest { repository, reference }),
                    Err(ReferenceError::Digest(error)) => Err(PathError::Digest(error)),
                    Err(ReferenceError::Tag(error)) => {
                        let tag = text.chars().take(Tag::MAX_BYTES).collect();
                        Err(PathError::Tag { repository, tag, error })
                    }
                }
            }
            ("referrers", digest) => {
                Ok(Self::Referrers { repository: Self::name(rest)?, subject: digest.parse()? })
            }
            ("tags", "list") => Ok(Self::Tags { repository: Self::name(rest)? }),
            _ => Err(PathError::NoEndpoint),
        }
    }

    /// What the caller must be allowed to do, or `None` if the endpoint does not know the method.
    pub fn right(&self, method: &Method) -> Option<Right> {
        let right = match (self, method.as_str()) {
            (Self::Base | Self::Extensions { repository: None }, "GET" | "HEAD") => Right::Login,
            (Self::Catalog, "GET" | "HEAD") => Right::Catalog,
            (Self::Blob { .. } | Self::Manifest { .. }, "GET" | "HEAD") => Right::Pull,
            (Self::Tags { .. } | Self::Referrers { .. } | Self::Extensions { .. }, "GET" | "HEAD") => {
                Right::Pull
            }
            (Self::Blob { .. } | Self::Manifest { .. }, "DELETE") => Right::Delete,
            (Self::Manifest { .. }, "PUT") | (Self::Uploads { .. }, "POST") => Right::Push,
            (Self::Upload { .. }, "GET" | "HEAD" | "PATCH" | "PUT" | "DELETE") => Right::Push,
            _ => return None,
        };
        Some(right)
    }

    /// What a token has to be for, as challenges name it (distribution's token specification); none for logging in alone.
    pub fn scope(&self, method: &Method) -> Option<String> {
        let actions = match self.right(method)? {
            Right::Login => return None,
            Right::Catalog => return Some("registry:catalog:*".to_owned()),
            Right::Pull => "pull",
            Right::Push => "pull,push",
            Right::Delete => "delete",
        };
        Some(format!("repository:{}:{actions}", self.repository()?))
    }

    /// The methods that the endpoint knows, as `Allow` lists them.
    pub fn allow(&self) -> String {
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let known: Vec<_> =
            methods.iter().filter(|method| self.right(method).is_some()).map(Method::as_str).collect();
        known.join(", ")
    }

    /// The repository that the endpoint belongs to.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Extensions { repository } => repository.as_ref(),
            Self::Blob { repository, .. }
            | Self::Manifest { repository, .. }
            | Self::Uploads { repository }
            | Self::Upload { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. } => Some(repository),
        }
    }

    /// The form of the path.
    pub fn route(&self) -> Route {
        match self {
            Self::Base => Route::Base,
            Self::Catalog => Route::Catalog,
            Self::Extensions { repository: None } => Route::Extensions,
            Self::Extensions { repository: Some(_) } => Route::RepositoryExtensions,
            Self::Blob { .. } => Route::Blob,
            Self::Manifest { .. } => Route::Manifest,
            Self::Uploads { .. } => Route::Uploads,
            Self::Upload { .. } => Route::Upload,
            Self::Tags { .. } => Route::Tags,
            Self::Referrers { .. } => Route::Referrers,
        }
    }

    /// The digest in the path.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Blob { digest, .. }
            | Self::Manifest { reference: Reference::Digest(digest), .. }
            | Self::Referrers { subject: digest, .. } => Some(digest),
            Self::Base
            | Self::Catalog
            | Self::Extensions { .. }
            | Self::Manifest { reference: Reference::Tag(_), .. }
            | Self::Uploads { .. }
            | Self::Upload { .. }
            | Self::Tags { .. } => None,
        }
    }

    /// Reads what precedes the part of the path that names the endpoint. `/v2/tags/list` has nothing there.
    fn name(path: Option<&str>) -> Result<RepositoryName, PathError> {
        // To decode a name whole is to decode its segments one by one: its grammar admits nothing that is ever escaped.
        percent_decode_str(path.ok_or(PathError::NoEndpoint)?)
            .decode_utf8_lossy()
            .parse()
            .map_err(PathError::Name)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("/v2/"),
            Self::Catalog => f.write_str("/v2/_catalog"),
            Self::Extensions { repository: None } => f.write_str("/v2/_oci/ext/discover"),
            Self::Extensions { repository: Some(repository) } => {
                write!(f, "/v2/{repository}/_oci/ext/discover")
            }
            Self::Blob { repository, digest } => write!(f, "/v2/{repository}/blobs/{digest}"),
            Self::Manifest { repository, reference } => write!(f, "/v2/{repository}/manifests/{reference}"),
            Self::Uploads { repository } => write!(f, "/v2/{repository}/blobs/uploads/"),
            Self::Upload { repository, id } => write!(f, "/v2/{repository}/blobs/uploads/{id}"),
            Self::Tags { repository } => write!(f, "/v2/{repository}/tags/list"),
            Self::Referrers { repository, subject } => write!(f, "/v2/{repository}/referrers/{subject}"),
        }
    }
}

impl PathError {
    /// The answer to a request for such a path.
    ///
    /// What cannot be a tag cannot be there either, so to ask for it is 404, but to push it is 400. What should be a digest
    /// is 400 for everyone, as the specification has it for referrers.
    pub fn answer_to(self, method: &Method) -> ApiError {
        match self {
            Self::NoEndpoint => ApiError::NoSuchEndpoint,
            Self::Upload => ApiError::UploadUnknown,
            Self::Name(error) => ApiError::NameInvalid(error),
            Self::Digest(error) => ApiError::DigestInvalid(error),
            Self::Tag { error, .. } if method == Method::PUT => ApiError::TagInvalid(error),
            Self::Tag { repository, tag, .. } => ApiError::ManifestUnknown { repository, reference: tag },
        }
    }
}

impl From<DigestError> for PathError {
    fn from(error: DigestError) -> Self {
        Self::Digest(error)
    }
}

/// Parts a path before its last segment, which is decoded. Bytes that are not UTF-8 become U+FFFD, which no grammar accepts.
fn split_last(path: &str) -> (Option<&str>, Cow<'_, str>) {
    let (rest, last) = path.rsplit_once('/').map_or((None, path), |(rest, last)| (Some(rest), last));
    (rest, percent_decode_str(last).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use storage::Algorithm;

    use super::*;

    const UUID: &str = "123e4567-e89b-42d3-a456-426614174000";

    fn parse(path: &str) -> Endpoint {
        Endpoint::parse(path).unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"content")
    }

    fn refused(method: Method, path: &str) -> (u16, &'static str) {
        let (status, code) = Endpoint::parse(path).expect_err(path).answer_to(&method).status_and_code();
        (status.as_u16(), code.as_str())
    }

    #[test]
    fn every_endpoint_is_recognised() {
        let (digest, repository) = (digest(), name("team/app"));
        assert_eq!(parse("/v2"), Endpoint::Base);
        assert_eq!(parse("/v2/"), Endpoint::Base);
        assert_eq!(parse("/v2/_catalog"), Endpoint::Catalog);
        assert_eq!(parse("/v2/_oci/ext/discover"), Endpoint::Extensions { repository: None });
        assert_eq!(
            parse("/v2/team/app/_oci/ext/discover"),
            Endpoint::Extensions { repository: Some(repository.clone()) }
        );
        assert_eq!(
            parse(&format!("/v2/team/app/blobs/{digest}")),
            Endpoint::Blob { repository: repository.clone(), digest }
        );
        assert_eq!(
            parse("/v2/team/app/manifests/latest"),
            Endpoint::Manifest { repository: repository.clone(), reference: "latest".parse().unwrap() }
        );
        assert_eq!(
            parse(&format!("/v2/team/app/manifests/{digest}")),
            Endpoint::Manifest { repository: repository.clone(), reference: Reference::Digest(digest) }
        );
        for path in ["/v2/team/app/blobs/uploads/", "/v2/team/app/blobs/uploads"] {
            assert_eq!(parse(path), Endpoint::Uploads { repository: repository.clone() });
        }
        assert_eq!(
            parse(&format!("/v2/team/app/blobs/uploads/{UUID}")),
            Endpoint::Upload { repository: repository.clone(), id: UUID.parse().unwrap() }
        );
        assert_eq!(parse("/v2/team/app/tags/list"), Endpoint::Tags { repository: repository.clone() });
        assert_eq!(
            parse(&format!("/v2/team/app/referrers/{digest}")),
            Endpoint::Referrers { repository, subject: digest }
        );
    }

    #[test]
    fn a_name_may_look_like_the_rest_of_a_path() {
        let uploads = |text| Endpoint::Uploads { repository: name(text) };
        let tags = |text| Endpoint::Tags { repository: name(text) };
        let manifest =
            |text, tag: &str| Endpoint::Manifest { repository: name(text), reference: tag.parse().unwrap() };
        assert_eq!(parse("/v2/a/blobs/uploads/blobs/uploads/"), uploads("a/blobs/uploads"));
        assert_eq!(parse("/v2/a/blobs/uploads/tags/list"), tags("a/blobs/uploads"));
        assert_eq!(parse("/v2/blobs/blobs/uploads/"), uploads("blobs"));
        assert_eq!(parse("/v2/x/manifests/tags/list"), tags("x/manifests"));
        assert_eq!(parse("/v2/tags/tags/list"), tags("tags"));
        assert_eq!(parse("/v2/x/manifests/manifests/list"), manifest("x/manifests", "list"));
        assert_eq!(parse("/v2/x/manifests/y/manifests/uploads"), manifest("x/manifests/y", "uploads"));
        assert_eq!(parse("/v2/tags/list/manifests/tags"), manifest("tags/list", "tags"));
        assert_eq!(parse("/v2/a/ext/discover/tags/list"), tags("a/ext/discover"));
    }

    #[test]
    fn a_path_without_a_repository_is_no_endpoint() {
        let digest = digest();
        for path in [
            "/v2/tags/list".to_owned(),
            "/v2/manifests/latest".to_owned(),
            "/v2/blobs/uploads/".to_owned(),
            format!("/v2/blobs/uploads/{UUID}"),
            format!("/v2/blobs/{digest}"),
            format!("/v2/referrers/{digest}"),
            "/v2/uploads/x".to_owned(),
            "/v2/ext/discover".to_owned(),
            "/v2/a/tags/list/".to_owned(),
            "/v2/a/tags".to_owned(),
            "/v2/a/b/c".to_owned(),
            "/v2/a".to_owned(),
            "/v2//".to_owned(),
            "/v1/a/tags/list".to_owned(),
            "/v2a/tags/list".to_owned(),
            "/V2/a/tags/list".to_owned(),
            "v2/a/tags/list".to_owned(),
            "*".to_owned(),
            String::new(),
        ] {
            assert_eq!(refused(Method::GET, &path), (404, "UNSUPPORTED"), "{path}");
        }
    }

    #[test]
    fn a_tag_may_be_called_anything_that_the_grammar_allows() {
        let longest = "x".repeat(128);
        for tag in ["list", "uploads", &format!("sha256-{}", digest().hex()), &longest, "_"] {
            let path = format!("/v2/a/manifests/{tag}");
            assert_eq!(
                parse(&path),
                Endpoint::Manifest { repository: name("a"), reference: tag.parse().unwrap() }
            );
        }
        for tag in ["x".repeat(129), ".INVALID_MANIFEST_NAME".to_owned(), "a%2Fb".to_owned(), String::new()] {
            let path = format!("/v2/a/manifests/{tag}");
            assert_eq!(refused(Method::PUT, &path), (400, "TAG_INVALID"), "{tag}");
            assert_eq!(refused(Method::GET, &path), (404, "MANIFEST_UNKNOWN"), "{tag}");
            assert_eq!(refused(Method::HEAD, &path), (404, "MANIFEST_UNKNOWN"), "{tag}");
        }
    }

    #[test]
    fn a_name_outside_the_grammar_is_refused() {
        let longest = "a".repeat(255);
        for good in ["a__b", "a--b", "a.b/c_d", &longest] {
            assert_eq!(parse(&format!("/v2/{good}/tags/list")), Endpoint::Tags { repository: name(good) });
        }
        for bad in [
            "A/b",
            "a//b",
            "a/",
            "/a",
            "",
            "-a",
            "a___b",
            "a..b",
            "a/../b",
            "..",
            ".",
            "a%00",
            "a%ff",
            "a%2",
            "a%",
            "%2525",
            "a%252Fb",
            "a b",
            "a%20b",
            "ä",
            "%C3%A4",
            "a\\b",
            "a%5Cb",
            &"a".repeat(256),
            &"a/".repeat(30_000),
        ] {
            assert_eq!(refused(Method::GET, &format!("/v2/{bad}/tags/list")), (400, "NAME_INVALID"), "{bad}");
            assert_eq!(
                refused(Method::POST, &format!("/v2/{bad}/blobs/uploads/")),
                (400, "NAME_INVALID"),
                "{bad}"
            );
        }
    }

    #[test]
    fn escapes_are_decoded_once_after_splitting() {
        let digest = digest();
        let blob = Endpoint::Blob { repository: name("a/b"), digest };
        let escaped = digest.to_string().replace(':', "%3A");
        assert_eq!(parse(&format!("/v2/a/b/blobs/{escaped}")), blob);
        assert_eq!(parse(&format!("/v2/a%2Fb/%62lobs/{}", escaped.to_lowercase())), blob);
        assert_eq!(parse("/v2/%61/tags/li%73t"), Endpoint::Tags { repository: name("a") });
        assert_eq!(refused(Method::GET, "/v2/a%2F..%2Fb/tags/list"), (400, "NAME_INVALID"));
        assert_eq!(refused(Method::GET, "/v2/a/tags%2Flist"), (404, "UNSUPPORTED"));
        assert_eq!(refused(Method::POST, "/v2/a/blobs%2Fuploads/"), (404, "UNSUPPORTED"));
        assert_eq!(refused(Method::GET, &format!("/v2/a/b%2Fblobs/{digest}")), (404, "UNSUPPORTED"));
        assert_eq!(refused(Method::GET, "/v2/a/blobs/sha256%253Aab"), (400, "DIGEST_INVALID"));
    }

    #[test]
    fn what_should_be_a_digest_is_refused_everywhere() {
        let hex = digest().hex().to_string();
        for bad in [
            "sha256:baddigeststring".to_owned(),
            "sha256:totallywrong".to_owned(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{hex}%00"),
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            format!(":{hex}"),
        ] {
            for kind in ["blobs", "manifests", "referrers"] {
                let path = format!("/v2/a/{kind}/{bad}");
                assert_eq!(refused(Method::GET, &path), (400, "DIGEST_INVALID"), "{path}");
                assert_eq!(refused(Method::PUT, &path), (400, "DIGEST_INVALID"), "{path}");
            }
        }
    }

    #[test]
    fn an_id_that_is_none_is_an_unknown_upload() {
        for id in ["x", "..", "%2E%2E", &UUID.to_uppercase(), &UUID.replace('-', ""), &format!("{UUID}0")] {
            let path = format!("/v2/a/blobs/uploads/{id}");
            assert_eq!(refused(Method::PATCH, &path), (404, "BLOB_UPLOAD_UNKNOWN"), "{path}");
        }
    }

    #[test]
    fn each_endpoint_knows_its_methods_and_the_right_they_need() {
        for (path, allow, rights) in [
            ("/v2/", "GET, HEAD", vec![Right::Login; 2]),
            ("/v2/_catalog", "GET, HEAD", vec![Right::Catalog; 2]),
            ("/v2/_oci/ext/discover", "GET, HEAD", vec![Right::Login; 2]),
            ("/v2/a/_oci/ext/discover", "GET, HEAD", vec![Right::Pull; 2]),
            (
                &format!("/v2/a/blobs/{}", digest()),
                "GET, HEAD, DELETE",
                vec![Right::Pull, Right::Pull, Right::Delete],
            ),
            (
                "/v2/a/manifests/latest",
                "GET, HEAD, PUT, DELETE",
                vec![Right::Pull, Right::Pull, Right::Push, Right::Delete],
            ),
            ("/v2/a/blobs/uploads/", "POST", vec![Right::Push]),
            (&format!("/v2/a/blobs/uploads/{UUID}"), "GET, HEAD, PUT, PATCH, DELETE", vec![Right::Push; 5]),
            ("/v2/a/tags/list", "GET, HEAD", vec![Right::Pull; 2]),
            (&format!("/v2/a/referrers/{}", digest()), "GET, HEAD", vec![Right::Pull; 2]),
        ] {
            let endpoint = parse(path);
            assert_eq!(endpoint.allow(), allow, "{path}");
            let methods = allow.split(", ").map(|method| method.parse().unwrap());
            assert_eq!(
                methods.filter_map(|method| endpoint.right(&method)).collect::<Vec<_>>(),
                rights,
                "{path}"
            );
            assert_eq!(endpoint.right(&Method::OPTIONS), None);
        }
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        (prop::sample::select(&Algorithm::ALL[..]), any::<[u8; 4]>())
            .prop_map(|(algorithm, content)| Digest::of(algorithm, &content))
    }

    fn any_name() -> impl Strategy<Value = RepositoryName> {
        let component = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}|blobs|uploads|manifests|tags|list|referrers|ext|discover";
        prop::collection::vec(component, 1..6).prop_map(|components| components.join("/").parse().unwrap())
    }

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let tag = "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}|list|uploads|latest";
        (any_name(), any_digest(), tag, any::<u128>()).prop_flat_map(|(repository, digest, tag, id)| {
            let hex = format!("{id:032x}");
            let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
            prop::sample::select(vec![
                Endpoint::Base,
                Endpoint::Catalog,
                Endpoint::Extensions { repository: None },
                Endpoint::Extensions { repository: Some(repository.clone()) },
                Endpoint::Blob { repository: repository.clone(), digest },
                Endpoint::Manifest { repository: repository.clone(), reference: Reference::Digest(digest) },
                Endpoint::Manifest { repository: repository.clone(), reference: tag.parse().unwrap() },
                Endpoint::Uploads { repository: repository.clone() },
                Endpoint::Upload { repository: repository.clone(), id: uuid.parse().unwrap() },
                Endpoint::Tags { repository: repository.clone() },
                Endpoint::Referrers { repository, subject: digest },
            ])
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(endpoint in any_endpoint()) {
            prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
        }

        #[test]
        fn escaping_each_segment_changes_nothing(endpoint in any_endpoint()) {
            let path = endpoint.to_string();
            let (root, rest) = path.split_at("/v2/".len());
            let escape = |segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string();
            let escaped: Vec<_> = rest.split('/').map(escape).collect();
            prop_assert_eq!(Endpoint::parse(&format!("{root}{}", escaped.join("/"))), Ok(endpoint));
        }

        #[test]
        fn no_path_makes_it_panic(
            path in prop_oneof![
                any::<String>(),
                "/v2(/(a|blobs|uploads|manifests|tags|list|referrers|_oci|ext|discover|%2[Ff]|%[0-9a-f]{0,2}|\\.\\.|\\PC|)){0,7}",
            ],
        ) {
            if let Ok(endpoint) = Endpoint::parse(&path) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }
}
