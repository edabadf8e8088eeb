//! The OpenAPI document.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, RefOr};
use utoipa::{IntoResponses, Modify, OpenApi};

use crate::error::ProblemDocument;
use crate::log::{End, Gap, TruncatedStart};
use crate::routes;

/// What the routes add themselves to.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Octopus process manager",
        description = "Runs AI functions in Kubernetes. Every mutation answers 202 with the command that it stored: a \
                       manager carries it out, and GET /api/v1/commands/{id}?wait=30 waits for its end. Send an \
                       `Idempotency-Key` to be able to repeat a request safely. Errors are problem documents (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&Bearer),
    security(("bearer" = [])),
    components(schemas(ProblemDocument, Gap, TruncatedStart, End)),
    tags(
        (name = "functions", description = "Named pieces of user code, their revisions and images."),
        (name = "processes", description = "Wishes to run a function, what became of them, and what they printed."),
        (name = "commands", description = "What was asked for, and how it ended."),
        (name = "clusters", description = "Who serves them, and what was seen of them."),
        (name = "service", description = "The API process itself.")
    )
)]
pub(crate) struct Base;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of `octopus-api token create`. viewer reads; operator also starts and kills; admin also declares and deletes."))
            .build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The document, complete.
pub fn document() -> Document {
    routes::surface().1
}

/// The document as JSON text.
///
/// # Errors
/// Never, in practice: it is made of strings.
pub fn json() -> Result<String, serde_json::Error> {
    document().to_pretty_json()
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $($status:literal $words:literal),*;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<String, RefOr<utoipa::openapi::Response>> {
                [$(($status, $words)),*].into_iter().map(|(status, words)| (status.to_owned(), problem(words).into())).collect()
            }
        }
    )*};
}

problems! {
    /// Of every address that reads.
    ReadProblems:
        "400" "The address, the query or a header cannot be read; the problem names it.",
        "401" "No valid bearer token.",
        "403" "The token's role does not allow this.",
        "503" "The database cannot be reached at the moment; see Retry-After.";
    /// Of every address that reads one thing.
    FindProblems:
        "400" "The address, the query or a header cannot be read; the problem names it.",
        "401" "No valid bearer token.",
        "403" "The token's role does not allow this.",
        "404" "There is no such thing.",
        "422" "A name that Kubernetes would refuse.",
        "503" "The database cannot be reached at the moment; see Retry-After.";
    /// Of every mutation.
    MutationProblems:
        "400" "The body, the address or a header cannot be read; the problem names it.",
        "401" "No valid bearer token.",
        "403" "The token's role does not allow this; the problem names the needed one.",
        "404" "What the address names does not exist.",
        "409" "The current state does not allow this, or the Idempotency-Key belongs to another request.",
        "413" "The body is too large; the problem names the limit.",
        "415" "The body's Content-Type is not taken.",
        "422" "Fields are refused; the problem lists all of them.",
        "503" "The database cannot be reached at the moment; see Retry-After.";
}

fn problem(words: &str) -> utoipa::openapi::Response {
    use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ProblemDocument")))
        .build();
    ResponseBuilder::new()
        .description(words)
        .content("application/problem+json", content)
        .build()
}
