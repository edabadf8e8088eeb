//! Bodies with a limit.

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use futures::StreamExt;

use crate::error::{Kind, Problem};

/// Largest body of every address but the one that takes sources.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// What is read and thrown away beyond a limit, so that the sender gets to read the answer.
const MAX_DISCARDED_BYTES: usize = 64 << 20;

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let mut parts = body.into_data_stream();
    let mut read = Vec::new();
    let mut length = 0;
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Problem::new(Kind::MALFORMED_REQUEST, "the body ended too early"))?;
        length += part.len();
        if length <= limit {
            read.extend_from_slice(&part);
        } else if length > MAX_DISCARDED_BYTES {
            break;
        }
    }
    if length > limit {
        Err(Problem::too_large(limit))
    } else {
        Ok(read.into())
    }
}

/// The media type of a body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
