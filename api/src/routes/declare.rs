//! `PUT /functions/{name}`: a function, or a new revision of it, from its settings and its source.

use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use octopus_shared::command;
use octopus_shared::error::Invalid;
use octopus_shared::function::{FunctionSpec, MAX_SOURCE_BYTES, Source, SourceFormat};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::accept::{Accepted, accept};
use crate::auth::Admin;
use crate::error::{Kind, Problem};
use crate::extract::{Mutation, Name, media_type, parse, parse_value, read_body, unsupported};
use crate::openapi::MutationProblems;
use crate::state::App;

/// A source of the largest size, its settings and the multipart's own lines.
const MAX_BYTES: usize = MAX_SOURCE_BYTES + (256 << 10);

/// A function as JSON. Exactly one of `source` and `source_base64`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Declaration {
    /// Its settings. What is left out has its default.
    #[serde(default)]
    #[schema(value_type = Option<FunctionSpec>)]
    spec: Value,
    /// The octopus-format Python file, as text.
    #[serde(default)]
    source: Option<String>,
    /// The file, or an archive (tar, tar.gz, zip) with `main.py` and `requirements.txt`, in base64.
    #[serde(default)]
    source_base64: Option<String>,
}

/// A function as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form in the OpenAPI document")]
pub(super) struct DeclarationForm {
    /// Its settings, as JSON. What is left out has its default.
    spec: Option<FunctionSpec>,
    /// The octopus-format Python file, or an archive (tar, tar.gz, zip) with `main.py` and `requirements.txt`.
    #[schema(value_type = String, format = Binary)]
    source: Vec<u8>,
}

/// Declare a function
///
/// Stores a new revision and has its image built. It can be started at once: the start waits for the image. The body is at
/// most 8 MiB and 256 KiB; larger sources than 6 MiB need the form.
#[utoipa::path(
    put, path = "/api/v1/functions/{name}", tag = "functions",
    params(
        ("name" = String, Path, description = "Lower-case letters, digits and hyphens, at most 40", example = "hello"),
        ("deadline_seconds" = Option<i32>, Query, minimum = 1, maximum = 604800,
         description = "The command fails unless a manager has begun it within so many seconds"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer"),
    ),
    request_body(content(
        (DeclarationForm = "multipart/form-data"),
        (Declaration = "application/json", example = json!({
            "spec": {"env": [{"name": "GREETING", "value": "hello"}]},
            "source": "dependencies = [\"pip install -q Flask==3.1.0\"]\n..."
        })),
    )),
    responses((status = 202, description = "Stored; the command builds the image", body = Accepted,
               headers(("Location" = String, description = "Address of the command"))), MutationProblems)
)]
pub(super) async fn declare(
    _: Admin,
    State(app): State<App>,
    Name(name): Name,
    mutation: Mutation,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let kind = media_type(&parts.headers);
    let body = read_body(body, MAX_BYTES).await?;
    let (spec, content) = match kind.as_str() {
        "application/json" => from_json(&body)?,
        "multipart/form-data" => {
            let mut request = Request::new(body.into());
            if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
                request.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            // With them goes the router's word that the extractor's own limit, two megabytes, does not count.
            request.extensions_mut().extend(parts.extensions);
            from_form(request).await?
        }
        _ => return Err(unsupported(&kind, "multipart/form-data or application/json")),
    };
    let canonical = serde_json::to_vec(&spec).map_err(Problem::internal)?;
    let asker = mutation.asker(&[&canonical, &content]);
    let source = Source {
        format: SourceFormat::sniff(&content),
        content,
    };
    accept(&app, &command::Request::DeclareFunction { name, spec, source }, &asker).await
}

fn from_json(body: &[u8]) -> Result<(FunctionSpec, Vec<u8>), Problem> {
    let declaration: Declaration = parse(body, "")?;
    let spec = match declaration.spec {
        Value::Null => FunctionSpec::default(),
        spec => parse_value(spec, "spec")?,
    };
    let content = match (declaration.source, declaration.source_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(encoded)) => STANDARD.decode(encoded).map_err(|error| {
            refused(
                "source_base64",
                format!("it is not base64: {error}"),
                "use the standard alphabet with padding",
            )
        })?,
        (Some(_), Some(_)) => return Err(refused("source_base64", "`source` is there too", "send one of them")),
        (None, None) => return Err(refused("source", "it is missing", "send `source` or `source_base64`")),
    };
    Ok((spec, content))
}

async fn from_form(request: Request) -> Result<(FunctionSpec, Vec<u8>), Problem> {
    let unreadable = |error: String| Problem::new(Kind::MALFORMED_REQUEST, error).remedy("send multipart/form-data");
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| unreadable(error.body_text()))?;
    let (mut spec, mut source) = (None, None);
    while let Some(part) = form.next_field().await.map_err(|error| unreadable(error.body_text()))? {
        let name = part.name().unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(|error| unreadable(error.body_text()))?;
        match name.as_str() {
            "spec" if spec.is_none() => spec = Some(parse(&bytes, "spec")?),
            "source" if source.is_none() => source = Some(bytes.to_vec()),
            "spec" | "source" => return Err(refused(&name, "it is there twice", "send it once")),
            _ => {
                let shown: String = name.chars().take(60).collect();
                return Err(refused(&shown, "there is no such part", "send `spec` and `source`"));
            }
        }
    }
    let source = source.ok_or_else(|| refused("source", "it is missing", "send the file as the part `source`"))?;
    Ok((spec.unwrap_or_default(), source))
}

fn refused(field: &str, problem: impl Into<String>, remedy: &str) -> Problem {
    Problem::invalid(vec![Invalid::new(field, problem, remedy)])
}
