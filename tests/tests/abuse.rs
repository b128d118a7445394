//! Promise: clients that say nothing, drip, flood or send what is too large are refused or hung up on, and others are served meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::{Api, Checks, Cluster, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// What the node gives a head and a body.
const READ_MS: u64 = 2_000;
/// After that, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that an address may send at once.
const BURST: u64 = 5_000;
/// Requests of one who claims to be many.
const MANY: u64 = 40;
/// Connections of one address.
const EACH_MAX: usize = 64;

fn short() -> Options {
    let env = [
        ("LARDER_HTTP__HEAD_READ_MS", READ_MS.to_string()),
        ("LARDER_HTTP__BODY_READ_MS", READ_MS.to_string()),
        (
            "LARDER_LIMITS__CONNECTIONS_PER_ADDRESS_MAX",
            EACH_MAX.to_string(),
        ),
        ("LARDER_HTTP__TRUSTED_PROXIES", "[\"127.0.0.9\"]".to_owned()),
        ("LARDER_RATES__ADDRESS_PER_S", "1".to_owned()),
        ("LARDER_RATES__ADDRESS_BURST", BURST.to_string()),
    ];
    Options {
        nodes: 1,
        replicas: 1,
        env: env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        ..Options::default()
    }
}

#[tokio::test]
async fn the_slow_the_large_and_the_many_do_no_harm() {
    let cluster = Cluster::start(short()).await;
    let (api, address) = (cluster.api(0), address(&cluster));
    let mut checks = Checks::new();
    checks
        .check("heads that drip", dripping_head(address))
        .await;
    checks
        .check("bodies that drip", dripping_body(address))
        .await;
    checks
        .check("gRPC messages that drip", dripping_message(address))
        .await;
    checks
        .check("heads that are too large", large_heads(address))
        .await;
    checks
        .check("resets of streams", reset_flood(address))
        .await;
    checks
        .check("proxies that are believed", proxies(address))
        .await;
    checks
        .check("too many connections", too_many_connections(&api, address))
        .await;
    checks.finish();
}

fn address(cluster: &Cluster) -> SocketAddr {
    let url = &cluster.nodes[0].client;
    let address = url.trim_start_matches("http://");
    address.parse().expect("an address")
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

/// A connection from another address of this machine.
async fn connect_from(own: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind(own.parse().expect("an address"))
        .expect("bound");
    socket.connect(address).await.expect("a connection")
}

/// All that the node says until it hangs up; a reset is an end, too.
async fn rest(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let mut part = [0; 4096];
    let read = async {
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            said.extend_from_slice(&part[..count]);
        }
    };
    timeout(PATIENCE, read).await.expect("the node hangs up");
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends a byte every now and then, until nobody takes it any more.
async fn drip(address: SocketAddr, head: &str) -> String {
    let mut stream = connect(address).await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut reading, mut writing) = stream.split();
    let mut said = Vec::new();
    let drops = async {
        loop {
            tokio::time::sleep(Duration::from_millis(READ_MS / 10)).await;
            if writing.write_all(b"x").await.is_err() {
                break std::future::pending::<()>().await;
            }
        }
    };
    let ended = async {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = reading.read(&mut part).await {
            said.extend_from_slice(&part[..count]);
        }
    };
    let first = async {
        tokio::select! { () = drops => {}, () = ended => {} }
    };
    timeout(PATIENCE, first).await.expect("the node hangs up");
    String::from_utf8_lossy(&said).into_owned()
}

async fn dripping_head(address: SocketAddr) {
    let said = drip(address, "GET /healthz HTTP/1.1\r\nhost: h\r\nx-slow: ").await;
    assert!(!said.contains(" 200 "), "{said}");
    // Nothing at all.
    let mut silent = connect(address).await;
    assert_eq!(rest(&mut silent).await, "");
    // One request, and then nothing.
    let mut idle = connect(address).await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .expect("sent");
    let said = rest(&mut idle).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}

async fn dripping_body(address: SocketAddr) {
    let head = "PUT /db/Demo/drip HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n{";
    let said = drip(address, head).await;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    assert!(said.contains("did not arrive in time"), "{said}");
    let chunked = "PUT /db/Demo/drip HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nfffff\r\n{";
    let said = drip(address, chunked).await;
    assert!(said.contains("did not arrive in time"), "{said}");
}

/// An HTTP/2 request whose message never ends.
async fn dripping_message(address: SocketAddr) {
    let mut stream = connect(address).await;
    let mut sent = h2::begin();
    sent.extend(h2::head(1, "/larder.v1.Documents/Put", false));
    sent.extend(h2::frame(h2::DATA, 0, 1, &[0, 0, 0, 16, 0, b'x']));
    stream.write_all(&sent).await.expect("sent");
    let ended = |frame: &h2::Frame| frame.stream == 1 && (frame.ends_stream() || frame.is_reset());
    h2::until(&mut stream, ended).await;
}

/// Lines, headers and lists past their limits, over both versions.
async fn large_heads(address: SocketAddr) {
    let long_path = format!(
        "GET /db/Demo/{} HTTP/1.1\r\nhost: h\r\n\r\n",
        "p".repeat(100_000)
    );
    let long_header = format!(
        "GET /db/Demo/a HTTP/1.1\r\nhost: h\r\nx-long: {}\r\n\r\n",
        "v".repeat(100_000)
    );
    let endless_header = format!(
        "GET /db/Demo/a HTTP/1.1\r\nhost: h\r\nx-long: {}",
        "v".repeat(300_000)
    );
    let many: String = (0..1_000).map(|n| format!("x-{n}: v\r\n")).collect();
    let many_headers = format!("GET /db/Demo/a HTTP/1.1\r\nhost: h\r\n{many}\r\n");
    for (request, statuses) in [
        (long_path, &["414", "431"][..]),
        (long_header, &["431"]),
        (endless_header, &["431"]),
        (many_headers, &["431"]),
    ] {
        let what = &request[..60];
        let mut stream = connect(address).await;
        // The node may hang up before all of it is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let said = rest(&mut stream).await;
        let status = said.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{what}: {said}");
    }
    let mut stream = connect(address).await;
    let mut sent = h2::begin();
    sent.extend(h2::huge_head(1, 400_000));
    let _ = stream.write_all(&sent).await;
    let refused = |frame: &h2::Frame| frame.stream == 1 || frame.is_goaway();
    if let Some(frame) = h2::until(&mut stream, refused).await {
        assert!(!frame.is_ok(), "{:02x?}", frame.payload);
    }
}

/// Opens streams and resets them at once, which costs the client nothing.
async fn reset_flood(address: SocketAddr) {
    let mut stream = connect_from("127.0.0.3:0", address).await;
    let mut sent = h2::begin();
    for n in 0..20_000 {
        let id = 2 * n + 1;
        sent.extend(h2::head(id, "/db/Demo/a", true));
        sent.extend(h2::frame(h2::RST_STREAM, 0, id, &[0, 0, 0, 8]));
    }
    let (mut reading, mut writing) = stream.split();
    let flood = async {
        let _ = writing.write_all(&sent).await;
        std::future::pending::<()>().await;
    };
    let calmed = |frame: &h2::Frame| frame.is_goaway();
    tokio::select! {
        () = flood => {}
        frame = h2::until(&mut reading, calmed) => {
            if let Some(frame) = frame {
                assert_eq!(frame.payload[4..8], [0, 0, 0, 0xb], "ENHANCE_YOUR_CALM");
            }
        }
    }
}

/// Only a trusted proxy says who asks; each of its clients is counted for itself.
async fn proxies(address: SocketAddr) {
    // This test's own address is not trusted: all that it claims to be are one.
    let mut stream = connect_from("127.0.0.4:0", address).await;
    let mut requests = String::new();
    for n in 1..=MANY {
        let close = if n == MANY {
            "connection: close\r\n"
        } else {
            ""
        };
        requests += &format!(
            "GET /db/Demo/a HTTP/1.1\r\nhost: h\r\n{close}x-forwarded-for: 203.0.113.{n}\r\n\r\n"
        );
    }
    stream.write_all(requests.as_bytes()).await.expect("sent");
    let said = rest(&mut stream).await;
    // One comes back each second.
    let least = left(&said).into_iter().min().expect("a limit");
    assert!(least < BURST - MANY / 2, "{least}");
    for client in ["203.0.113.1", "203.0.113.2"] {
        let mut stream = connect_from("127.0.0.9:0", address).await;
        let request = format!(
            "GET /db/Demo/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-forwarded-for: 9.9.9.9, {client}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let said = rest(&mut stream).await;
        assert_eq!(left(&said), [BURST - 1], "{said}");
    }
}

/// What is left of the limit, in each answer.
fn left(said: &str) -> Vec<u64> {
    said.lines()
        .filter_map(|line| line.strip_prefix("ratelimit-remaining: "))
        .map(|left| left.parse().expect("a number"))
        .collect()
}

/// One address opens all the connections that it may have; another one is served.
async fn too_many_connections(api: &Api, address: SocketAddr) {
    let mut held = Vec::new();
    for _ in 0..EACH_MAX * 2 {
        held.push(connect(address).await);
    }
    let mut other = connect_from("127.0.0.2:0", address).await;
    other
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .expect("sent");
    let said = rest(&mut other).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    // Half of them were closed without a word, the others when they said nothing.
    for mut stream in held {
        assert_eq!(rest(&mut stream).await, "");
    }
    let body = json!({ "n": 1 });
    api.put("/db/Demo/after")
        .json(&body)
        .send()
        .await
        .expect(200);
}

/// As much of HTTP/2 as it takes to misuse it.
mod h2 {
    use std::time::Duration;

    use tokio::io::{AsyncRead, AsyncReadExt as _};
    use tokio::time::timeout;

    pub(super) const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// Bytes of a frame that need no settings.
    const FRAME_BYTES_MAX: usize = 16_384;

    pub(super) struct Frame {
        kind: u8,
        flags: u8,
        pub(super) stream: u32,
        pub(super) payload: Vec<u8>,
    }

    impl Frame {
        pub(super) fn ends_stream(&self) -> bool {
            matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
        }

        /// The head of an answer whose status is 200: the first thing in it, by its number in the static table.
        pub(super) fn is_ok(&self) -> bool {
            self.kind == HEADERS && self.payload.first() == Some(&0x88)
        }

        pub(super) fn is_reset(&self) -> bool {
            self.kind == RST_STREAM
        }

        pub(super) fn is_goaway(&self) -> bool {
            self.kind == GOAWAY
        }
    }

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// What a client says first.
    pub(super) fn begin() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes
    }

    /// A literal header, never indexed, without Huffman coding.
    fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
        block.push(0x10);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(length as u8);
            } else {
                block.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    block.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
            block.extend(text.as_bytes());
        }
    }

    fn block(path: &str) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "h"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            literal(&mut block, name, value);
        }
        block
    }

    /// The head of a request.
    pub(super) fn head(stream: u32, path: &str, ends: bool) -> Vec<u8> {
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        frame(HEADERS, flags, stream, &block(path))
    }

    /// A head in many frames.
    pub(super) fn huge_head(stream: u32, bytes: usize) -> Vec<u8> {
        let mut block = block("/db/Demo/a");
        literal(&mut block, "x-long", &"v".repeat(bytes));
        let mut frames = Vec::new();
        let parts: Vec<_> = block.chunks(FRAME_BYTES_MAX).collect();
        for (at, part) in parts.iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let flags = if at + 1 == parts.len() {
                END_HEADERS
            } else {
                0
            };
            frames.extend(frame(kind, flags, stream, part));
        }
        frames
    }

    /// Reads frames up to one that is wanted; `None` if the node hangs up before, which is an answer too.
    pub(super) async fn until(
        stream: &mut (impl AsyncRead + Unpin),
        wanted: impl Fn(&Frame) -> bool,
    ) -> Option<Frame> {
        let read = async {
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.ok()?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).await.ok()?;
                let frame = Frame {
                    kind: head[3],
                    flags: head[4],
                    stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                    payload,
                };
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        };
        timeout(Duration::from_secs(60), read)
            .await
            .expect("an answer or an end")
    }
}
