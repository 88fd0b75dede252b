//! The manual's jail whose network is one port of one server.

mod jail;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jail::checks::need_program;
use jail::{Jail, PATH, repository, until};

/// The spec of the page as it stands there.
fn spec_of_the_manual() -> String {
    let page = std::fs::read_to_string(repository().join("man/jailmk-spec.5")).expect("read the page");
    let block = page.split("# api.toml\n").nth(1).expect("the example");
    block.split(".Ed\n").next().expect("its end").replace("\\e", "\\")
}

/// The command line of the relay outside, without its prompt.
fn relay_of_the_manual() -> String {
    let page = std::fs::read_to_string(repository().join("man/jailmk-spec.5")).expect("read the page");
    let line = page.lines().find_map(|line| line.strip_prefix("$ socat ")).expect("the relay");
    format!("exec socat {line}")
}

/// A server that says its name to whoever asks by HTTP; its port, and how often it was asked.
fn server(name: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            count.fetch_add(1, Ordering::SeqCst);
            let lines = BufReader::new(stream.try_clone().expect("duplicate a descriptor")).lines();
            // Up to the empty line.
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{name}\n", name.len() + 1);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, asked)
}

/// A process that goes with the test.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_manuals_relay_reaches_its_server_and_nothing_else() {
    if !need_program("/usr/bin/socat") || !need_program("/usr/bin/curl") {
        return;
    }
    let ((api, api_asked), (other, other_asked)) = (server("the api"), server("another"));
    // The server here speaks no TLS, and the script goes on to look for other ways out.
    let ask = "curl -sS --retry 9 --retry-connrefused http://api.example.com:443/";
    let ways = [
        format!("http://127.0.0.1:{api}/"),
        format!("http://127.0.0.1:{other}/"),
        format!("http://api.example.com:{other}/"),
        "http://other.example.com:443/".to_owned(),
        "http://[::1]:443/".to_owned(),
        "http://192.0.2.1/".to_owned(),
    ];
    let asks: String = ways.iter().map(|way| format!("curl -s -m 5 {way} && echo reached {way}\n")).collect();
    let spec = spec_of_the_manual();
    assert!(spec.contains("exec curl -sS --retry 9 --retry-connrefused https://api.example.com/"), "{spec}");
    let spec = spec
        .replace(
            "exec curl -sS --retry 9 --retry-connrefused https://api.example.com/",
            &format!("{ask}\n{asks}"),
        )
        .replace("~/.jail/api", "PLACE/api");
    let jail = Jail::spec(spec);
    let socket = jail.place.directory("api").join("socket");
    let mut line = relay_of_the_manual();
    for (from, to) in [
        ("$HOME/.jail/api/socket", socket.to_str().expect("UTF-8").to_owned()),
        ("TCP:api.example.com:443", format!("TCP:127.0.0.1:{api}")),
    ] {
        assert!(line.contains(from), "{line}");
        line = line.replace(from, &to);
    }
    let mut relay = Command::new("/bin/sh");
    relay.args(["-c", &line]).env_clear().env("PATH", PATH).stdin(Stdio::null());
    let relay = Relay(relay.spawn().expect("start the relay"));
    until("the relay listens", || socket.exists());
    let ran = jail.run(&[]);
    assert_eq!(ran.stdout, "the api\n", "{ran}");
    assert_eq!(api_asked.load(Ordering::SeqCst), 1);
    assert_eq!(other_asked.load(Ordering::SeqCst), 0);
    drop(relay);
}
