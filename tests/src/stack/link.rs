//! A TCP link of one test's own between its programs and what they speak with, which can be cut without disturbing others.

use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It carries.
    Open,
    /// Every connection is reset, and so is each new one: the other side has died, or is not there.
    Cut,
    /// Nothing is carried and nothing is said: a network that fails. Connections of that time stay dead for ever, as they do
    /// after a failover.
    Silent,
}

/// A link. What runs over it ends with it.
pub struct Link {
    /// Port on this machine that stands for the other side.
    pub port: u16,
    line: watch::Sender<Line>,
    beyond: watch::Sender<SocketAddr>,
    carrying: tokio::task::JoinHandle<()>,
}

impl Link {
    /// An open link to a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let here = listener.local_addr().expect("an address").port();
        let (line, _) = watch::channel(Line::Open);
        let (beyond, _) = watch::channel(SocketAddr::from(([127, 0, 0, 1], port)));
        let carrying = tokio::spawn(carry(listener, line.clone(), beyond.clone()));
        Self {
            port: here,
            line,
            beyond,
            carrying,
        }
    }

    /// Opens or cuts it.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// The other side is at another port of this machine now.
    pub fn lead_to(&self, port: u16) {
        self.beyond.send_replace(SocketAddr::from(([127, 0, 0, 1], port)));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

async fn carry(listener: TcpListener, line: watch::Sender<Line>, beyond: watch::Sender<SocketAddr>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (line, beyond) = (line.subscribe(), *beyond.borrow());
        connections.spawn(async move {
            // However it ends: whoever speaks over it sees that for himself.
            let _ = connection(near, beyond, line).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut near: TcpStream, beyond: SocketAddr, mut line: watch::Receiver<Line>) -> io::Result<()> {
    let now = *line.borrow_and_update();
    let mut far = match now {
        Line::Open => Some(TcpStream::connect(beyond).await?),
        Line::Cut | Line::Silent => None,
    };
    let ended = match &mut far {
        Some(far) => {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            tokio::select! {
                carried = copy_bidirectional(&mut near, far) => return carried.map(|_| ()),
                _ = line.changed() => *line.borrow(),
            }
        }
        None => now,
    };
    if ended == Line::Silent {
        return std::future::pending().await;
    }
    // A reset, and no orderly end.
    for end in [Some(near), far].into_iter().flatten() {
        end.set_zero_linger()?;
    }
    Ok(())
}
