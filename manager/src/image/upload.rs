//! Puts one blob into a repository: mount, or stream into the upload that a refused mount opens.
//!
//! `oci-client` takes a refused mount for an error and loses the upload that came with it, so that these requests are
//! made here. A blob's bytes are never in memory as a whole.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use oci_client::Reference;
use oci_client::client::Client;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Body, RequestBuilder, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use super::error::BuildError;
use super::retry::{oci_error, refused, request_error, status_error, within};

/// A small request.
const SHORT: Duration = Duration::from_secs(30);
/// The slowest line to a registry that is waited for.
const BYTES_PER_SECOND: u64 = 256 << 10;

/// Where a blob's bytes come from. They can be had again for another try.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    File(&'a Path),
    /// Streamed out of another repository.
    Pulled {
        client: &'a Client,
        from: &'a Reference,
        layer: &'a OciDescriptor,
    },
}

/// One repository, and the right to write to it.
pub(crate) struct Upload<'a> {
    pub(crate) http: &'a reqwest::Client,
    /// Scheme, host and port.
    pub(crate) registry: &'a Url,
    pub(crate) repository: &'a str,
    pub(crate) authorization: RegistryAuth,
}

impl Upload<'_> {
    /// Puts the blob there. True when its bytes were sent.
    pub(crate) async fn put(
        &self,
        digest: &str,
        size: u64,
        mount_from: Option<&str>,
        content: Content<'_>,
    ) -> Result<bool, BuildError> {
        let mut url = self.registry.clone();
        url.set_path(&format!("/v2/{}/blobs/uploads/", self.repository));
        if let Some(from) = mount_from {
            url.query_pairs_mut()
                .append_pair("mount", digest)
                .append_pair("from", from);
        }
        let opened = self
            .send(
                self.authorized(self.http.post(url.clone()), &url)
                    .header(CONTENT_LENGTH, 0),
                SHORT,
            )
            .await?;
        match opened.status() {
            StatusCode::CREATED if mount_from.is_some() => return Ok(false),
            StatusCode::ACCEPTED => {}
            _ => return Err(self.bad_status(opened).await),
        }
        let mut location = self.location(&opened)?;
        location.query_pairs_mut().append_pair("digest", digest);
        let body = self.body(content).await?;
        let request = self
            .authorized(self.http.put(location.clone()), &location)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(body);
        let limit = SHORT + Duration::from_secs(size / BYTES_PER_SECOND);
        let done = self.send(request, limit).await?;
        if done.status() == StatusCode::CREATED {
            Ok(true)
        } else {
            Err(self.bad_status(done).await)
        }
    }

    async fn body(&self, content: Content<'_>) -> Result<Body, BuildError> {
        match content {
            Content::Bytes(bytes) => Ok(bytes.to_vec().into()),
            Content::File(path) => {
                let file = tokio::fs::File::open(path).await;
                let file = file.map_err(|error| BuildError::machine("a written layer is not there", error))?;
                Ok(Body::wrap_stream(ReaderStream::with_capacity(file, 256 << 10)))
            }
            Content::Pulled { client, from, layer } => {
                let pulled = client.pull_blob_stream(from, layer);
                let pulled = async { pulled.await.map_err(|error| oci_error(from, error)) };
                let stream = within(SHORT, from.registry(), pulled).await?.stream;
                Ok(Body::wrap_stream(stream.inspect_err(|error| {
                    tracing::debug!(%error, "a base layer ended early");
                })))
            }
        }
    }

    /// An upload may go on at another host, a bucket's for example, with an address that is a permission itself. Our
    /// own is for our registry alone.
    fn authorized(&self, request: RequestBuilder, url: &Url) -> RequestBuilder {
        if url.origin() != self.registry.origin() {
            return request;
        }
        match &self.authorization {
            RegistryAuth::Anonymous => request,
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
            RegistryAuth::Bearer(token) => request.bearer_auth(token),
        }
    }

    fn location(&self, response: &Response) -> Result<Url, BuildError> {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok());
        let url = location.and_then(|location| response.url().join(location).ok());
        url.ok_or_else(|| refused(&self.host(), "it opened an upload without saying where"))
    }

    async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Response, BuildError> {
        let host = self.host();
        within(limit, &host, async {
            request.send().await.map_err(|error| request_error(&host, error))
        })
        .await
    }

    async fn bad_status(&self, response: Response) -> BuildError {
        let status = response.status().as_u16();
        let patience = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|asked| asked.to_str().ok());
        let patience = patience.map(str::to_owned);
        // An explanation is short; one that does not come is none.
        let message = tokio::time::timeout(Duration::from_secs(5), response.text()).await;
        let message = message.ok().and_then(Result::ok).unwrap_or_default();
        let mut error = status_error(&self.host(), status, &message);
        error.away = error.away.map(|away| Box::new(away.asking(patience.as_deref())));
        error
    }

    fn host(&self) -> String {
        self.registry.authority().to_owned()
    }
}
