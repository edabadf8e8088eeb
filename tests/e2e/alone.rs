//! What takes the whole node: no other test runs beside one of these. By the name of this module they are the first of a run, so
//! that nobody waits for a turn in the middle of it.

mod floods;
mod inotify;
mod preempted;
