//! Where a request comes from: the other end of the connection, or what a trusted proxy says.
//!
//! `X-Forwarded-For` is a list that every proxy adds the address to that it was called from. Anybody can begin it with anything, so it is
//! read from its end, and only as long as those who wrote it are trusted: the first address that is no trusted proxy's is the client's.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap, Request};
use ipnet::IpNet;

/// Proxies in a row that are looked through.
const HOPS_MAX: usize = 16;

/// What proxies say of the client.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of a connection. Given to each of its requests by the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(IpAddr);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(address.ip().to_canonical())
    }
}

/// Where a request comes from, as far as that can be believed.
#[derive(Clone, Copy, Debug)]
struct Client(IpAddr);

/// Notes where a request comes from, for [`of`].
pub(crate) fn resolve<B>(request: &mut Request<B>, trusted: &[IpNet]) {
    let Some(&Peer(peer)) = request.extensions().get() else {
        return;
    };
    let client = match is_trusted(peer, trusted) {
        true => behind(request.headers(), peer, trusted),
        false => peer,
    };
    request.extensions_mut().insert(Client(client));
}

/// Where a request comes from; `None` where no connection brought it.
pub(crate) fn of(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get().map(|&Client(address)| address)
}

/// The client behind the trusted proxy at `peer`. What cannot be read ends the list: the last proxy that could be read stands for all.
fn behind(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    let mut last = peer;
    for hop in hops.take(HOPS_MAX) {
        let Some(address) = parse(hop.trim()) else {
            break;
        };
        last = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    last
}

/// An address, with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> Option<String> {
        let mut request = Request::new(());
        let peer: SocketAddr = peer.parse().expect("an address");
        request.extensions_mut().insert(Peer::from(peer));
        for line in forwarded {
            let value = line.parse().expect("a header");
            request.headers_mut().append(X_FORWARDED_FOR, value);
        }
        let trusted: Vec<IpNet> = trusted
            .iter()
            .map(|net| net.parse().expect("a net"))
            .collect();
        resolve(&mut request, &trusted);
        of(request.extensions()).map(|address| address.to_string())
    }

    #[test]
    fn strangers_are_not_believed() {
        assert_eq!(
            client("203.0.113.9:1", &["198.51.100.7"], &["10.0.0.0/8"]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            client("[::ffff:203.0.113.9]:1", &[], &[]).as_deref(),
            Some("203.0.113.9")
        );
    }

    #[test]
    fn a_trusted_proxy_says_who_called_it_and_nothing_before_that_counts() {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        for (forwarded, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            (
                &["1.1.1.1, 198.51.100.7", "10.0.0.2, fd00::1"],
                "198.51.100.7",
            ),
            // Nothing, or nothing that can be read: the proxy itself.
            (&[], "10.0.0.1"),
            (&["1.1.1.1, nonsense"], "10.0.0.1"),
            (&["1.1.1.1, nonsense, 10.0.0.3"], "10.0.0.3"),
            // A proxy's own request.
            (&["10.0.0.2"], "10.0.0.2"),
        ] {
            assert_eq!(
                client("10.0.0.1:1", forwarded, &trusted).as_deref(),
                Some(expected),
                "{forwarded:?}"
            );
        }
    }

    #[test]
    fn a_long_list_is_not_read_to_its_end() {
        let long = format!("1.1.1.1, {}", ["10.0.0.2"; 1_000].join(", "));
        assert_eq!(
            client("10.0.0.1:1", &[&long], &["10.0.0.0/8"]).as_deref(),
            Some("10.0.0.2")
        );
    }

    #[test]
    fn without_a_connection_nobody_knows() {
        let mut request = Request::new(());
        resolve(&mut request, &[]);
        assert_eq!(of(request.extensions()), None);
    }
}
