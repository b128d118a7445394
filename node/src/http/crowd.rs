//! How many connections come from one address: nobody takes all places of a port by opening connections and saying nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::address::{is_trusted, key_of};

/// The open connections of a port by address. Holds at most as many addresses as there are connections.
pub(super) struct Crowd {
    each_max: usize,
    /// Proxies stand for many clients.
    trusted: Arc<[IpNet]>,
    open: Mutex<HashMap<(u8, u64), usize>>,
}

/// A connection's place; given back when dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    key: Option<(u8, u64)>,
}

impl Crowd {
    pub(super) fn new(each_max: usize, trusted: Arc<[IpNet]>) -> Arc<Self> {
        Arc::new(Self {
            each_max,
            trusted,
            open: Mutex::default(),
        })
    }

    /// A place for one more connection; `None` if its address has all that one may have.
    pub(super) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let counted = address.filter(|address| !is_trusted(*address, &self.trusted));
        let key = counted.map(|address| key_of(Some(address)));
        if let Some(key) = key {
            let mut open = self.open.lock();
            let of_it = open.entry(key).or_default();
            if *of_it >= self.each_max {
                return None;
            }
            *of_it += 1;
        }
        Some(Place {
            crowd: Arc::clone(self),
            key,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(key) = self.key else {
            return;
        };
        let mut open = self.crowd.open.lock();
        if let Some(of_it) = open.get_mut(&key) {
            *of_it -= 1;
            if *of_it == 0 {
                open.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_part_and_others_theirs() {
        let trusted: Arc<[IpNet]> = Arc::new(["10.0.0.0/8".parse().expect("a net")]);
        let crowd = Crowd::new(2, trusted);
        let enter = |text: &str| crowd.enter(Some(text.parse().expect("an address")));
        let first = enter("192.0.2.1").expect("a place");
        let second = enter("192.0.2.1");
        assert!(second.is_some());
        assert!(enter("192.0.2.1").is_none());
        let other = enter("192.0.2.2");
        assert!(other.is_some());
        let proxied: Vec<_> = (0..9).map(|_| enter("10.0.0.1")).collect();
        assert!(proxied.iter().all(Option::is_some));
        drop(first);
        let again = enter("192.0.2.1");
        assert!(again.is_some());
        drop((second, other, again));
        assert!(crowd.open.lock().is_empty());
    }
}
