//! What the database refuses or fails at, as problems.

use octopus_shared::db::enqueue::EnqueueError;

use super::{Kind, Problem};

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if is_away(&error) {
            return Self::new(Kind::UNAVAILABLE, "the database cannot be reached")
                .remedy("try again in a few seconds")
                .cause(error);
        }
        // Text with a NUL, which no column can hold.
        if matches!(
            error.as_database_error().and_then(|e| e.code()).as_deref(),
            Some("22021" | "22P05")
        ) {
            return Self::new(Kind::INVALID_INPUT, "a text holds a NUL").remedy("remove it");
        }
        Self::internal(error)
    }
}

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        // A server that dies while a connection is set up leaves an answer of no sense behind.
        sqlx::Error::Protocol(_) => true,
        // Connection exceptions, too many connections, the server starting or shutting down.
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code.starts_with("53")),
        _ => false,
    }
}

impl From<EnqueueError> for Problem {
    fn from(error: EnqueueError) -> Self {
        let with = |kind, detail: String, remedy: Option<String>| match remedy {
            Some(remedy) => Self::new(kind, detail).remedy(remedy),
            None => Self::new(kind, detail),
        };
        match error {
            EnqueueError::Invalid(errors) => Self::invalid(errors),
            EnqueueError::NotFound { message, remedy } => with(Kind::NOT_FOUND, message, remedy),
            EnqueueError::Conflict { message, remedy } => with(Kind::CONFLICT, message, remedy),
            EnqueueError::Unauthenticated => Self::invalid_token(),
            EnqueueError::KeyReused => Self::new(Kind::KEY_REUSED, "it was used with another method, address or body")
                .remedy("use a fresh key for each request, and the same key only to repeat it"),
            EnqueueError::Database(error) => error.into(),
        }
    }
}
