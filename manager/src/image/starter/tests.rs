//! The starter and what stands before `apt-get`, run by the Python of this machine.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Does on POST what its second argument says, and notes SIGTERM.
const FUNCTION: &str = r#"
import http.server, os, signal, sys, time
def end(*_):
    print("asked to end", flush=True)
    os._exit(5)
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print("set up", self.path, flush=True)
        exec(sys.argv[2])
    def answer(self, status):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"because")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("start.py"), START).unwrap();
        std::fs::write(folder.path().join("function.py"), FUNCTION).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        Command::new("python3")
            .args(["-I", "-u"])
            .arg(self.path("start.py"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--termination-log")
            .arg(self.path("log"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Starts the function above, as a service that is set up.
    fn serve(&self, on_post: &str) -> Child {
        let (function, port) = (self.path("function.py"), free_port());
        let function = function.to_str().unwrap();
        self.start(&["--port", &port, "--set-up", "/setup", "--", function, &port, on_post])
    }

    fn probe(&self, starter: u32) -> Output {
        Command::new("python3")
            .args(["-I", "-S"])
            .arg(self.path("start.py"))
            .arg("--probe")
            .arg(self.path("state"))
            .arg(starter.to_string())
            .output()
            .unwrap()
    }
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[expect(
    clippy::disallowed_methods,
    reason = "no runtime here: programs are looked at from outside"
)]
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stop(starter: &Child) {
    let sent = Command::new("kill").args(["-TERM", &starter.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

fn ended(mut starter: Child) -> (Option<i32>, String) {
    let code = starter.wait().unwrap().code();
    let mut printed = String::new();
    starter.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    (code, printed)
}

#[test]
fn it_ends_as_the_function_ends() {
    let folder = Folder::new();
    for (code, expected) in [
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), 11)", 139),
    ] {
        let starter = folder.start(&["--", "-c", &format!("import os, sys; {code}")]);
        assert_eq!(ended(starter).0, Some(expected), "{code}");
    }
}

#[test]
fn a_service_is_set_up_once_and_told_of_its_end() {
    let folder = Folder::new();
    let starter = folder.serve("self.answer(201)");
    until("it is up", || folder.probe(starter.id()).status.success());
    // Another container of the same pod finds this one's state, and is not up by it.
    assert!(!folder.probe(std::process::id()).status.success());
    stop(&starter);
    assert_eq!(ended(starter), (Some(5), "set up /setup\nasked to end\n".into()));
}

#[test]
fn a_set_up_that_fails_ends_it_and_says_why() {
    let folder = Folder::new();
    let starter = folder.serve("self.answer(500)");
    let probed = folder.probe(starter.id());
    assert!(!probed.status.success() && !probed.stdout.is_empty());
    assert_eq!(ended(starter).0, Some(70));
    let why = std::fs::read_to_string(folder.path("log")).unwrap();
    assert_eq!(why, "octopus/set_up_failed: POST /setup answered 500: because");
}

#[test]
fn a_function_that_dies_while_it_is_set_up_ends_as_it_ends() {
    let folder = Folder::new();
    let starter = folder.serve("self.connection.shutdown(2); time.sleep(0.2); os._exit(4)");
    assert_eq!(ended(starter).0, Some(4));
    assert!(!folder.path("log").exists());
}

#[test]
fn a_stop_while_it_is_set_up_is_no_failure() {
    let folder = Folder::new();
    let mut starter = folder.serve(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); print('waits', flush=True)
signal.sigwait([signal.SIGTERM]); self.answer(503); self.connection.shutdown(2); time.sleep(0.2); os._exit(5)",
    );
    let mut printed = BufReader::new(starter.stdout.as_mut().unwrap()).lines();
    assert!(printed.any(|line| line.unwrap() == "waits"));
    stop(&starter);
    assert_eq!(ended(starter).0, Some(5));
    assert!(!folder.path("log").exists());
}

#[test]
fn apt_get_knows_what_is_there_and_what_is_not() {
    let folder = Folder::new();
    // The package database of this machine may be another's: one of three packages.
    let query = "#!/bin/sh\nfor name; do :; done\n[ \"$name\" = there ] && printf 'ii '\n";
    let (program, database) = (folder.path("apt-get"), folder.path("dpkg-query"));
    executable(&program, APT_GET);
    executable(&database, query);
    let path = format!("{}:{}", folder.0.path().display(), std::env::var("PATH").unwrap());
    for (line, expected, missing) in [
        ("apt-get update --fix-missing", 0, ""),
        (
            "apt-get update && apt-get install -y --no-install-recommends there",
            0,
            "",
        ),
        ("apt-get -o Dpkg::Use-Pty=0 -qq install there=1.2", 0, ""),
        ("apt-get install -y there pandoc ffmpeg", 100, "pandoc ffmpeg"),
        ("apt-get remove there", 100, "nothing can be changed"),
    ] {
        let ended = Command::new("sh")
            .args(["-c", line])
            .env("PATH", &path)
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(expected), "{line}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains(missing), "{line}");
    }
}

fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
