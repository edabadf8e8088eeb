//! Reads requests. Whatever cannot be read becomes a problem that names the field.

mod body;
#[cfg(test)]
mod fuzz;
mod json;
mod mutation;
mod path;

pub(crate) use body::{media_type, read_body};
pub(crate) use json::{Document, parse, parse_value, unsupported};
pub(crate) use mutation::Mutation;
pub(crate) use path::{Id, Name, Path, Query, last_event_id};
