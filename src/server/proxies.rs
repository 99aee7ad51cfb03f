//! Who a request comes from, where proxies stand between.
//!
//! Anybody can write `X-Forwarded-For`. What counts is what a proxy of ours wrote, and that stands at the right: each appends the
//! address that it was called from. So the list is read from its right end for as long as the addresses are those of our proxies,
//! and the first that is not is the client; what stands left of it is hearsay.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName};

use crate::config::Proxy;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Every header by which a proxy tells how it was called.
const TOLD_BY_PROXIES: [HeaderName; 4] = [
    FORWARDED,
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

/// The proxies that are believed.
#[derive(Debug)]
pub(super) struct Proxies(Vec<Proxy>);

/// Who sent a request, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sender {
    /// The client's address; there is none on a Unix socket.
    pub(super) address: Option<IpAddr>,
    /// Whether a proxy that is believed passed the request on, so that its headers tell how that one was called.
    pub(super) by_trusted_proxy: bool,
}

impl Proxies {
    pub(super) fn new(proxies: Vec<Proxy>) -> Self {
        Self(proxies)
    }

    /// Tells who sent the request that came from `peer`. Where some proxies are believed, what others say is taken out of `headers`.
    pub(super) fn sender(&self, peer: Option<SocketAddr>, headers: &mut HeaderMap) -> Sender {
        let peer = peer.map(|peer| peer.ip().to_canonical());
        if !self.believe(peer) {
            if !self.0.is_empty() {
                for name in TOLD_BY_PROXIES {
                    headers.remove(name);
                }
            }
            return Sender { address: peer, by_trusted_proxy: false };
        }
        if headers.contains_key(FORWARDED)
            && TOLD_BY_PROXIES.iter().any(|name| *name != FORWARDED && headers.contains_key(name))
        {
            // A proxy that writes the older ones passes on what a client made up in this one.
            headers.remove(FORWARDED);
        }
        let mut address = peer;
        for hop in hops(headers) {
            // What cannot be read hides everything behind it.
            let Some(hop) = hop else { break };
            address = Some(hop);
            if !self.believe(address) {
                break;
            }
        }
        Sender { address, by_trusted_proxy: true }
    }

    fn believe(&self, address: Option<IpAddr>) -> bool {
        self.0.iter().any(|proxy| match (proxy, address) {
            (Proxy::UnixSocket, None) => true,
            (Proxy::Network(network), Some(address)) => network.holds(address),
            (Proxy::UnixSocket, Some(_)) | (Proxy::Network(_), None) => false,
        })
    }
}

/// The addresses that proxies were called from, the latest first. Most proxies write `X-Forwarded-For` and pass on a `Forwarded` that
/// a client made up, so the latter is read only where the former is not.
fn hops(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let is_older = headers.contains_key(FORWARDED_FOR);
    let lines = headers.get_all(if is_older { FORWARDED_FOR } else { FORWARDED }).iter().rev();
    // Split from the right, so that nothing that a client wrote can change how the rest is read.
    let elements = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    elements.map(move |element| address(if is_older { element } else { forwarded_for(element)? }))
}

/// The parameter `for` of an element of `Forwarded` (RFC 7239 §4).
fn forwarded_for(element: &str) -> Option<&str> {
    let mut parameters = element.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    Some(value)
}

/// An address, with a port or without, in quotes or not: `192.0.2.1`, `"[2001:db8::1]:4711"`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn sender(peer: &str, headers: &[(&'static str, &str)]) -> (String, bool, HeaderMap) {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48"].map(|text| Proxy::Network(text.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let found = Proxies::new(proxies.into()).sender(Some(peer.parse().unwrap()), &mut map);
        (found.address.unwrap().to_string(), found.by_trusted_proxy, map)
    }

    #[test]
    fn the_client_is_the_last_whom_a_proxy_of_ours_was_called_by() {
        let cases: [(&[(&'static str, &str)], &str); 14] = [
            (&[], "10.0.0.1"),
            (&[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            (&[("x-forwarded-for", "192.0.2.7:4711")], "192.0.2.7"),
            (&[("x-forwarded-for", "1.1.1.1, 192.0.2.7, 10.9.9.9")], "192.0.2.7"),
            (
                &[
                    ("x-forwarded-for", "1.1.1.1"),
                    ("x-forwarded-for", "192.0.2.7"),
                    ("x-forwarded-for", "10.2.0.1"),
                ],
                "192.0.2.7",
            ),
            (&[("x-forwarded-for", "10.3.3.3, 10.2.2.2")], "10.3.3.3"),
            (&[("x-forwarded-for", "1.1.1.1, unknown, 10.2.2.2")], "10.2.2.2"),
            (&[("x-forwarded-for", "")], "10.0.0.1"),
            (&[("x-forwarded-for", "::ffff:192.0.2.7")], "192.0.2.7"),
            (&[("x-forwarded-for", "2001:db8:2::7, 2001:db8:1::1")], "2001:db8:2::7"),
            (
                &[("forwarded", "for=1.1.1.1, for=192.0.2.7;proto=https, by=x;For=\"10.2.0.1:80\"")],
                "192.0.2.7",
            ),
            (&[("forwarded", "for=\"[2001:db8:2::7]:4711\"")], "2001:db8:2::7"),
            (&[("forwarded", "for=\"1.1.1.1, for=192.0.2.7")], "192.0.2.7"),
            // A proxy that writes the older header passes on what a client says in the newer one.
            (&[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
        ];
        for (headers, client) in cases {
            let (found, trusted, _) = sender("10.0.0.1:1000", headers);
            assert_eq!((found.as_str(), trusted), (client, true), "{headers:?}");
        }
        let (found, trusted, _) = sender("[::ffff:10.0.0.1]:1000", &[("x-forwarded-for", "192.0.2.7")]);
        assert_eq!((found.as_str(), trusted), ("192.0.2.7", true));
    }

    #[test]
    fn what_others_say_is_forgotten() {
        let told = [
            ("x-forwarded-for", "192.0.2.7"),
            ("forwarded", "for=192.0.2.7;host=evil"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "https"),
        ];
        let (found, trusted, headers) = sender("203.0.113.5:1000", &told);
        assert_eq!((found.as_str(), trusted), ("203.0.113.5", false));
        assert!(headers.is_empty());
        let (_, _, headers) = sender("10.0.0.1:1000", &told);
        assert_eq!(headers.len(), 3, "what was passed on beside what the proxy wrote");
        assert!(!headers.contains_key(FORWARDED));
    }

    #[test]
    fn without_a_list_nobody_is_believed_about_a_client() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        let none = Proxies::new(Vec::new());
        let found = none.sender(Some("10.0.0.1:1000".parse().unwrap()), &mut headers);
        assert_eq!(found, Sender { address: Some([10, 0, 0, 1].into()), by_trusted_proxy: false });
        // For a `Location`, which only whoever wrote them sees, they count as in distribution.
        assert_eq!(headers.len(), 1);
        let socket = Proxies::new(vec![Proxy::UnixSocket]);
        let found = socket.sender(None, &mut headers);
        assert_eq!(found, Sender { address: Some([192, 0, 2, 7].into()), by_trusted_proxy: true });
    }
}
