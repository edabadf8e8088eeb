//! Which tests of a run share the node: all, but for those that take the whole of it.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static NODE: RwLock<()> = RwLock::const_new(());

/// A test's turn on the node. It ends when this is dropped.
pub(super) enum Turn {
    Beside(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl Turn {
    /// Waits until nobody has the node alone.
    pub(super) async fn beside() -> Self {
        Self::Beside(NODE.read().await)
    }

    /// Waits until nobody else has the node.
    pub(super) async fn alone() -> Self {
        Self::Alone(NODE.write().await)
    }
}
