//! Logs on their way out: which lines, in which form.

mod filter;
mod followed;
mod format;
mod kept;
mod line;
mod search;
mod source;
mod story;
mod truncated;

pub(crate) use filter::{Filter, is_short};
pub(crate) use followed::Followed;
pub(crate) use format::{Format, Live};
pub(crate) use line::{End, Gap, Line};
pub(crate) use source::{Build, Selection, Source};
pub(crate) use story::{Place as StoryPlace, Told, follow as follow_story, page as story};
pub(crate) use truncated::TruncatedStart;
