//! Logs on their way out: which lines, in which form.

mod filter;
mod format;
mod line;
mod search;
mod source;
mod story;

pub(crate) use filter::{Filter, is_short};
pub(crate) use format::{Format, Live};
pub(crate) use line::{End, Gap, Line};
pub(crate) use source::{Selection, Source};
pub(crate) use story::{Place as StoryPlace, Told, page as story};
