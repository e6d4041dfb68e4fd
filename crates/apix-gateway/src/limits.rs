//! Rates: frames of one connection, handshakes from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use apix::{Error, Result};
use axum::http::HeaderMap;
use axum::http::HeaderName;
use tokio::time::Instant;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Addresses that are watched at once; those that have been quiet make room first.
const MAX_ADDRESSES: usize = 16_384;

/// So many a second, and as many at once after a quiet second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    per_second: u32,
    left: f64,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: f64::from(per_second), at: now }
    }

    /// Whether one more is within the rate.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }

    fn refill(&mut self, now: Instant) {
        let most = f64::from(self.per_second);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * most).min(most);
        self.at = now;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= f64::from(self.per_second)
    }
}

/// The address at the other end of the connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Handshakes a second from one address.
pub(crate) struct HandshakeLimit {
    per_second: Option<u32>,
    proxies: Vec<Network>,
    addresses: Mutex<HashMap<IpAddr, Rate>>,
}

impl HandshakeLimit {
    pub(crate) fn new(per_second: Option<u32>, proxies: &[String]) -> Result<Self> {
        let proxies = proxies.iter().map(|text| Network::parse(text)).collect::<Result<_>>()?;
        Ok(Self { per_second, proxies, addresses: Mutex::default() })
    }

    /// Whether one more handshake of this client is within the rate.
    pub(crate) fn take(&self, peer: Peer, headers: &HeaderMap, now: Instant) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let address = network_of(self.client(peer, headers));
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&address) {
            addresses.retain(|_, rate| !rate.is_full(now));
            if addresses.len() >= MAX_ADDRESSES {
                // So many busy addresses at once: a table that grows would be the worse harm.
                addresses.clear();
            }
        }
        addresses.entry(address).or_insert_with(|| Rate::new(per_second, now)).take(now)
    }

    /// The client's address: the last one in the chain of proxies that is no trusted proxy.
    fn client(&self, Peer(peer): Peer, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let forwarded: Vec<&str> = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for address in forwarded.iter().rev() {
            let trusted = self.proxies.iter().any(|proxy| proxy.contains(client));
            match address.trim().parse::<IpAddr>() {
                Ok(address) if trusted => client = address.to_canonical(),
                _ => break,
            }
        }
        client
    }
}

/// Who has one IPv6 address has its whole /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (!0 << 64)).into(),
    }
}

/// An address, or a block of them such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "trusted_proxies: {text:?} is no address and no block such as \"10.0.0.0/8\""
            ))
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }

    fn contains(self, other: IpAddr) -> bool {
        let same =
            |a: u128, b: u128, width: u32| self.bits == 0 || (a ^ b) >> (width - self.bits) == 0;
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::time::Duration;

    #[test]
    fn a_rate_allows_as_many_a_second() {
        let begun = Instant::now();
        let mut rate = Rate::new(10, begun);
        assert_eq!((0..20).filter(|_| rate.take(begun)).count(), 10);
        let later = begun + Duration::from_millis(500);
        assert_eq!((0..20).filter(|_| rate.take(later)).count(), 5);
        let much_later = begun + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| rate.take(much_later)).count(), 10);
    }

    fn forwarded(text: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(text));
        headers
    }

    #[test]
    fn only_a_trusted_proxy_says_whom_it_speaks_for() {
        let proxies = ["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let limit = HandshakeLimit::new(Some(1), &proxies).unwrap();
        let client = |peer: &str, headers: &HeaderMap| {
            limit.client(Peer(peer.parse().unwrap()), headers).to_string()
        };
        let chain = forwarded("6.6.6.6, 9.9.9.9, 10.2.0.1");
        assert_eq!(client("10.1.1.1", &chain), "9.9.9.9");
        assert_eq!(client("::ffff:10.1.1.1", &chain), "9.9.9.9");
        assert_eq!(client("::1", &forwarded("9.9.9.9")), "9.9.9.9");
        assert_eq!(client("8.8.8.8", &chain), "8.8.8.8");
        assert_eq!(client("10.1.1.1", &forwarded("nonsense")), "10.1.1.1");
        assert_eq!(client("10.1.1.1", &HeaderMap::new()), "10.1.1.1");
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/x", "proxy.local"] {
            assert!(HandshakeLimit::new(None, &[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn each_address_has_its_own_rate_and_the_table_stays_small() {
        let limit = HandshakeLimit::new(Some(1), &[]).unwrap();
        let now = Instant::now();
        let take = |n: u32| limit.take(Peer(IpAddr::V4(n.into())), &HeaderMap::new(), now);
        assert!(take(1) && !take(1) && take(2));
        for n in 0..40_000 {
            take(n);
        }
        assert!(limit.addresses.lock().unwrap().len() <= MAX_ADDRESSES);
        let v6 = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    }
}
