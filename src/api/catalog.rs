//! The list of repositories.

use axum::http::header;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;
use storage::RepositoryName;

use crate::access::CatalogAccess;
use crate::api::endpoint::Endpoint;
use crate::api::error::ApiError;
use crate::api::page::PageRequest;
use crate::api::query::Query;
use crate::api::{Api, json};

/// `GET /v2/_catalog`: repositories in byte order of their names, a page at a time.
pub(super) async fn list_repositories(
    api: &Api,
    access: CatalogAccess,
    request: &Parts,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct List<'a> {
        repositories: Vec<&'a str>,
    }
    let asked = PageRequest::parse(Query::of(&request.uri), api.0.options.catalog_pages)?;
    let page = access.page(asked.last.as_deref(), asked.limit).await?;
    let list = List { repositories: page.repositories.iter().map(RepositoryName::as_str).collect() };
    let mut response = json(serde_json::to_vec(&list).map_err(|error| ApiError::Internal(error.into()))?);
    if let (true, Some(last)) = (page.more, page.repositories.last()) {
        let link = asked.next_link(api.0.options.urls.path(), &Endpoint::Catalog, last.as_str());
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
