//! The list of a repository's tags.

use axum::http::header;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;
use storage::Tag;

use crate::access::PullAccess;
use crate::api::endpoint::Endpoint;
use crate::api::error::ApiError;
use crate::api::page::PageRequest;
use crate::api::query::Query;
use crate::api::{Api, json};

/// `GET /v2/<name>/tags/list`: tags in byte order, a page at a time.
pub(super) async fn list_tags(api: &Api, access: PullAccess, request: &Parts) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct List<'a> {
        name: &'a str,
        tags: Vec<&'a str>,
    }
    let asked = PageRequest::parse(Query::of(&request.uri), api.0.options.tag_pages)?;
    let repository = access.repository();
    let page = access.tags(asked.last.as_deref(), asked.limit).await?;
    let page = page.ok_or_else(|| ApiError::NameUnknown(repository.clone()))?;
    let list = List { name: repository.as_str(), tags: page.tags.iter().map(Tag::as_str).collect() };
    let mut response = json(serde_json::to_vec(&list).map_err(|error| ApiError::Internal(error.into()))?);
    if let (true, Some(last)) = (page.more, page.tags.last()) {
        let tags = Endpoint::Tags { repository: repository.clone() };
        response
            .headers_mut()
            .insert(header::LINK, asked.next_link(api.0.options.urls.path(), &tags, last.as_str()));
    }
    Ok(response)
}
