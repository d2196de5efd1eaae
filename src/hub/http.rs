//! Requests to one hub: the token goes to the hub's own host and nowhere else, and nobody is waited for without end.
//!
//! Redirects are followed here and not by the HTTP library: hubs send large files from other hosts, which must not see the token.

use super::{
    digest::Digest,
    env::{Hub, HubEnv},
    failure::Failure,
};
use crate::config::Token;
use serde_json::Value;
use std::{io::Read, time::Duration};
use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response, Uri, uri::Authority},
};

/// Hops from an address to where the bytes are.
const MOST_HOPS: usize = 8;
/// The longest listing that is read, in bytes.
const LONGEST_LISTING: u64 = 32 << 20;
/// How long a connection may take to come about.
const CONNECTING: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("couplet-train/", env!("CARGO_PKG_VERSION"));

/// The way to one hub.
pub struct Http {
    agent: Agent,
    /// The endpoint's scheme and host, which alone get `token`.
    origin: Uri,
    token: Option<Token>,
    /// ModelScope's older routes know the token as a cookie.
    as_cookie: bool,
}

/// What a hub says about a file, and where it sends us for the bytes.
#[derive(Debug, Default)]
pub struct Head {
    /// `x-repo-commit`
    pub commit: Option<String>,
    /// `x-linked-etag`, else `etag`, without quotes: the name of the content.
    pub etag: Option<String>,
    /// What the name says of the content. A storage's own etag says nothing, whatever it looks like.
    pub digest: Option<Digest>,
    /// `x-linked-size`, else the length of the content.
    pub size: Option<u64>,
    /// The content's type, where it is a page and not a file.
    pub is_page: bool,
}

/// A body to read, from byte `start` of a file.
pub struct Content {
    /// Where the first byte belongs.
    pub start: u64,
    /// Bytes of the whole file, as far as the server says.
    pub total: Option<u64>,
    /// The bytes.
    pub body: Box<dyn Read>,
}

impl Http {
    /// For the hub that `env` names. Opens no connection. Errors: an address that is none, a token that no header can hold.
    pub fn new(env: &HubEnv) -> Result<Self, Failure> {
        let no_address = |what: &str| Failure::NotAHub(format!("{what} is no address"));
        let origin: Uri = env.endpoint.parse().map_err(|_| no_address("the endpoint"))?;
        if origin.host().is_none_or(str::is_empty) {
            return Err(no_address("the endpoint"));
        }
        let proxy = env.proxy.as_ref().map(|(proxy, direct)| proxy_of(proxy, direct).ok_or(no_address("the proxy")));
        let agent = Agent::config_builder()
            .proxy(proxy.transpose()?)
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECTING))
            .timeout_resolve(Some(CONNECTING))
            .timeout_per_read(Some(env.silence))
            .timeout_per_write(Some(env.silence))
            .build()
            .new_agent();
        let token = env.token();
        if token.as_ref().is_some_and(|token| !token.reveal().bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Failure::Token);
        }
        Ok(Self { agent, origin, token, as_cookie: env.hub == Hub::ModelScope })
    }

    /// Whether a token is sent along.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The JSON at `url`.
    pub fn json(&self, url: &str) -> Result<Value, Failure> {
        let mut answer = self.follow("GET", url, None, |_, _| false)?;
        let body = answer.body_mut().with_config().limit(LONGEST_LISTING).read_to_vec();
        let body = body.map_err(|err| match err {
            ureq::Error::BodyExceedsLimit(_) => Failure::NotAHub("it sends a list without end".into()),
            err => Failure::of_request(&err),
        })?;
        serde_json::from_slice(&body).map_err(|_| Failure::NotAHub(what_it_is(answer.headers()).into()))
    }

    /// What the hub says about the file at `url`. Hosts that only store the bytes are not asked.
    pub fn head(&self, url: &str) -> Result<Head, Failure> {
        let (mut head, mut is_hubs) = (Head::default(), false);
        let answer = self.follow("HEAD", url, None, |headers, is_own| {
            is_hubs = is_own;
            head.commit = head.commit.take().or_else(|| text(headers, "x-repo-commit"));
            head.etag = head.etag.take().or_else(|| text(headers, "x-linked-etag").map(|etag| plain(&etag)));
            head.size = head.size.or_else(|| text(headers, "x-linked-size")?.parse().ok());
            head.etag.is_some() && head.size.is_some()
        })?;
        is_hubs |= head.etag.is_some();
        if answer.status().is_success() {
            let headers = answer.headers();
            head.etag = head.etag.take().or_else(|| text(headers, "etag").map(|etag| plain(&etag)));
            head.size = head.size.or_else(|| text(headers, "content-length")?.parse().ok());
            head.is_page = is_page(headers);
        }
        head.digest = head.etag.as_deref().filter(|_| is_hubs).and_then(Digest::of_etag);
        Ok(head)
    }

    /// The file at `url` from byte `start` on, or from its beginning where the server cannot begin elsewhere.
    pub fn content(&self, url: &str, start: u64) -> Result<Content, Failure> {
        let answer = self.follow("GET", url, (start > 0).then_some(start), |_, _| false)?;
        let headers = answer.headers();
        if is_page(headers) {
            return Err(Failure::NotAHub(what_it_is(headers).into()));
        }
        let range = text(headers, "content-range").and_then(|range| content_range(&range));
        let (start, total) = match (answer.status().as_u16(), range) {
            (206, Some((begin, total))) if begin == start => (start, total),
            (206, _) => return Err(Failure::Broken("it sent another part of the file than it was asked for".into())),
            _ => (0, text(headers, "content-length").and_then(|length| length.parse().ok())),
        };
        Ok(Content { start, total, body: Box::new(answer.into_body().into_reader()) })
    }

    /// Follows redirects, to any host; `look` sees the headers of every answer, and whether it is the hub's own, and may end the
    /// way there.
    fn follow(
        &self,
        method: &str,
        url: &str,
        start: Option<u64>,
        mut look: impl FnMut(&HeaderMap, bool) -> bool,
    ) -> Result<Response<Body>, Failure> {
        let mut at: Uri = url.parse().map_err(|_| Failure::NotAHub("that is no address".into()))?;
        for _ in 0..MOST_HOPS {
            let is_own = same_origin(&at, &self.origin);
            let told = |failure: Failure| match at.host() {
                Some(host) if !is_own => failure.at(&host.chars().take(100).collect::<String>()),
                _ => failure,
            };
            let answer = self.send(method, &at, start).map_err(told)?;
            let status = answer.status();
            let is_enough = look(answer.headers(), is_own);
            if status.is_success() || (is_enough && status.is_redirection()) {
                return Ok(answer);
            }
            let headers = answer.headers();
            if !status.is_redirection() {
                let header = |name: &str| text(headers, name);
                return Err(told(Failure::status(
                    status.as_u16(),
                    header("x-error-code").as_deref(),
                    header("retry-after").as_deref(),
                )));
            }
            let target = text(headers, "location").and_then(|location| resolved(&at, &location));
            at = target.ok_or_else(|| Failure::NotAHub("it sends us nowhere".into()))?;
        }
        Err(Failure::NotAHub("it sends us round in circles".into()))
    }

    fn send(&self, method: &str, at: &Uri, start: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = match method {
            "HEAD" => self.agent.head(at),
            _ => self.agent.get(at),
        };
        // What is counted and digested are the bytes of the file, not of a compressed form.
        request = request.header("accept-encoding", "identity");
        if let Some(start) = start {
            request = request.header("range", format!("bytes={start}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(at, &self.origin)) {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
            if self.as_cookie {
                request = request.header("cookie", format!("m_session_id={}", token.reveal()));
            }
        }
        request.call().map_err(|err| Failure::of_request(&err))
    }
}

/// `http://name:password@host:port`, with `direct` as in NO_PROXY.
fn proxy_of(proxy: &str, direct: &str) -> Option<Proxy> {
    let known = Proxy::new(proxy).ok()?;
    let mut builder = Proxy::builder(known.protocol()).host(known.host()).port(known.port());
    if let Some(name) = known.username() {
        builder = builder.username(name).password(known.password().unwrap_or_default());
    }
    // `example.com` there means its subdomains too.
    let direct = direct.split(',').map(str::trim).filter(|host| !host.is_empty());
    direct.fold(builder, |builder, host| builder.no_proxy(host).no_proxy(&format!(".{host}"))).build().ok()
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().or(if uri.scheme_str() == Some("http") { Some(80) } else { Some(443) });
    let host = |uri: &Uri| uri.host().map(str::to_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// Where `location` leads from `at`: an address, one without a scheme, or a path.
fn resolved(at: &Uri, location: &str) -> Option<Uri> {
    let authority: &Authority = at.authority()?;
    let whole = match location {
        _ if location.starts_with("http://") || location.starts_with("https://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{}:{location}", at.scheme_str()?),
        _ if location.starts_with('/') => format!("{}://{authority}{location}", at.scheme_str()?),
        _ => return None,
    };
    whole.parse().ok()
}

/// `bytes 100-199/200` → where it begins, and how long the whole is.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// An etag without `W/` and quotes.
fn plain(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// No file of a model is a web page.
fn is_page(headers: &HeaderMap) -> bool {
    text(headers, "content-type").is_some_and(|kind| kind.to_lowercase().starts_with("text/html"))
}

fn what_it_is(headers: &HeaderMap) -> &'static str {
    if is_page(headers) { "it answers with a web page" } else { "its answer is not that of a hub" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_belongs_to_scheme_host_and_port() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        for (a, b, want) in [
            ("https://hub/x", "https://HUB:443/y", true),
            ("http://hub:80", "http://hub/y", true),
            ("https://hub", "http://hub", false),
            ("https://hub", "https://cdn.hub", false),
            ("https://hub:1", "https://hub:2", false),
            ("https://hub", "https://hub@evil", false),
        ] {
            assert_eq!(same_origin(&uri(a), &uri(b)), want, "{a} {b}");
        }
    }

    #[test]
    fn redirects_are_addresses_or_paths() {
        let at: Uri = "https://hub:8443/a/b?c=d".parse().unwrap();
        for (location, want) in [
            ("/x?y=z", Some("https://hub:8443/x?y=z")),
            ("//cdn/x", Some("https://cdn/x")),
            ("http://cdn/x", Some("http://cdn/x")),
            ("x", None),
            ("ftp://cdn/x", None),
            ("", None),
        ] {
            let got = resolved(&at, location).map(|uri| uri.to_string());
            assert_eq!(got.as_deref(), want, "{location}");
        }
    }

    #[test]
    fn ranges_and_etags_are_read_and_nonsense_is_not() {
        assert_eq!(content_range("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(content_range("bytes 100-199/*"), Some((100, None)));
        for nonsense in ["", "bytes */200", "bytes x-1/2", "100-199/200", "bytes 99999999999999999999-1/2"] {
            assert_eq!(content_range(nonsense), None, "{nonsense}");
        }
        assert_eq!(plain("W/\"abc\""), "abc");
        assert_eq!(plain("abc"), "abc");
    }

    #[test]
    fn proxies_are_taken_as_other_programs_take_them() {
        let proxy = proxy_of("socks5://me:secret@127.0.0.1:7890", "localhost, internal").unwrap();
        assert_eq!((proxy.host(), proxy.port(), proxy.password()), ("127.0.0.1", 7890, Some("secret")));
        assert!(proxy.is_no_proxy(&"http://a.internal/x".parse().unwrap()));
        assert!(!proxy.is_no_proxy(&"http://hub/x".parse().unwrap()));
        assert_eq!(proxy_of("127.0.0.1:7890", "").unwrap().port(), 7890);
        assert!(proxy_of("ht tp", "").is_none());
    }
}
