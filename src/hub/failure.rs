//! What can go wrong with one request, and whether another attempt may help. `words` makes sentences of it.

use crate::error::{Error, io_reason};
use std::io;

/// Why a request did not bring what it was made for.
#[derive(Debug)]
pub enum Failure {
    /// The server answered with this status, and perhaps with the hub's own word for the reason.
    Status {
        /// 4xx or 5xx.
        status: u16,
        /// `x-error-code`, where it is one that is known.
        code: Option<&'static str>,
        /// Seconds to wait, where the server says so.
        retry_after: Option<u64>,
        /// The host that answered, where it is not the hub's own but one that the hub sent us to.
        elsewhere: Option<String>,
    },
    /// The server was not reached at all.
    Unreachable(String),
    /// The connection broke, or nothing came for too long.
    Broken(String),
    /// What came is no answer of a hub: a page of a proxy, a listing that is none.
    NotAHub(String),
    /// The token holds what no header may.
    Token,
    /// The bytes are not those that the hub has: how. Nothing of them is kept.
    Damaged(String),
    /// What would be sent is not the file, by its length: how. Nothing of it was taken, and what came before stays.
    NotTheFile(String),
    /// This machine cannot write them.
    Local(Error),
}

/// The hub's words for a reason.
const CODES: [&str; 5] = ["GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound", "DisabledRepo"];

impl Failure {
    /// A status that is no success, with what the headers say about it.
    pub fn status(status: u16, code: Option<&str>, retry_after: Option<&str>) -> Self {
        let code = CODES.into_iter().find(|known| Some(*known) == code);
        Self::Status {
            status,
            code,
            retry_after: retry_after.and_then(|text| text.trim().parse().ok()),
            elsewhere: None,
        }
    }

    /// The same, where `host` failed and not the hub that sent us there.
    pub fn at(self, host: &str) -> Self {
        let behind = |reason: String| format!("{reason} ({host}, where it keeps its files)");
        match self {
            Self::Status { status, code, retry_after, .. } => {
                Self::Status { status, code, retry_after, elsewhere: Some(host.to_owned()) }
            }
            Self::Unreachable(reason) => Self::Unreachable(behind(reason)),
            Self::Broken(reason) => Self::Broken(behind(reason)),
            other => other,
        }
    }

    /// A refusal by a host that only stores files, and knows no accounts: the address it was given may be too old, and the hub
    /// makes another one when it is asked again.
    pub fn is_of_storage(&self) -> bool {
        matches!(self, Self::Status { status: 400 | 401 | 403 | 404 | 410, code: None, elsewhere: Some(_), .. })
    }

    /// A failed request.
    pub fn of_request(err: &ureq::Error) -> Self {
        match err {
            ureq::Error::HostNotFound => Self::Unreachable("its name cannot be resolved".into()),
            ureq::Error::ConnectionFailed => Self::Unreachable("no connection".into()),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Self::Unreachable("no answer in time".into())
            }
            ureq::Error::Timeout(_) => Self::Broken("it said nothing for too long".into()),
            ureq::Error::Io(err) if err.kind() == io::ErrorKind::ConnectionRefused => Self::Unreachable(io_reason(err)),
            ureq::Error::Io(err) => Self::Broken(io_reason(err)),
            ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => {
                Self::Unreachable("the proxy that the environment names does not let it through".into())
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Self::NotAHub("that is no address".into()),
            ureq::Error::Protocol(_) => Self::Broken("what it says is not HTTP".into()),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
                // Its text names the certificate's fault and nothing of ours.
                Self::Unreachable(format!("no secure connection: {}", one_line(&err.to_string())))
            }
            other => Self::Broken(one_line(&other.to_string())),
        }
    }

    /// A body that broke off.
    pub fn of_body(err: &io::Error) -> Self {
        let inner = err.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        match inner {
            Some(inner) => Self::of_request(inner),
            None if err.kind() == io::ErrorKind::UnexpectedEof => Self::Broken("the connection was closed".into()),
            None => Self::Broken(io_reason(err)),
        }
    }

    /// Whether the same request may succeed in a while.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => [408, 429, 500, 502, 503, 504].contains(status) || self.is_of_storage(),
            Self::Unreachable(_) | Self::Broken(_) | Self::Damaged(_) | Self::NotTheFile(_) => true,
            Self::NotAHub(_) | Self::Token | Self::Local(_) => false,
        }
    }

    /// In a few words.
    pub fn reason(&self) -> String {
        match self {
            Self::Status { status, elsewhere: Some(host), .. } => {
                format!("{host}, where it keeps its files, answers with status {status}")
            }
            Self::Status { status, .. } => format!("it answers with status {status}"),
            Self::Unreachable(reason)
            | Self::Broken(reason)
            | Self::NotAHub(reason)
            | Self::Damaged(reason)
            | Self::NotTheFile(reason) => reason.clone(),
            Self::Token => "the token holds a character that no token has".into(),
            Self::Local(err) => err.to_string(),
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}
