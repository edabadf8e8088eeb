//! Logs on their way out: which lines, in which form.

mod format;
mod line;
mod source;

pub(crate) use format::Format;
pub(crate) use line::{End, Gap, Line};
pub(crate) use source::{Selection, Source};
