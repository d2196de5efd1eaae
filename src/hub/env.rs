//! What the environment says about the hubs, read once. Names and defaults are those of `huggingface_hub`, `modelscope` and
//! LlamaFactory.

use super::names::expand;
use crate::config::{HubTokens, Token};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hub {
    /// The default.
    HuggingFace,
    /// `USE_MODELSCOPE_HUB`
    ModelScope,
    /// `USE_OPENMIND_HUB`, which is refused where a name would have to be fetched.
    OpenMind,
}

/// The variables, and the tokens of a config.
pub struct HubEnv {
    /// Which hub.
    pub(super) hub: Hub,
    /// The user's home folder, for `~/`.
    pub(super) home: Option<PathBuf>,
    /// `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`; for ModelScope `MODELSCOPE_CACHE`, else
    /// `~/.cache/modelscope`.
    pub(super) cache: Option<PathBuf>,
    /// `HF_ENDPOINT` or `MODELSCOPE_ENDPOINT`, without a slash at its end. May hold a password: for requests only.
    pub(super) endpoint: String,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`
    pub(super) offline: bool,
    /// `HTTPS_PROXY` (or `HTTP_PROXY`, as the endpoint is) or `ALL_PROXY`, and `NO_PROXY`: the hosts that need none.
    pub(super) proxy: Option<(String, String)>,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: how long a server may say nothing.
    pub(super) silence: Duration,
    /// The wait before the second attempt; doubles with every further one.
    pub(super) pause: Duration,
    /// `HF_TOKEN` or `MODELSCOPE_API_TOKEN`, unless a config gives another. With `HF_HUB_DISABLE_IMPLICIT_TOKEN` a config's only.
    token: Option<Token>,
    /// Where `huggingface-cli login` leaves a token.
    token_file: Option<PathBuf>,
}

impl HubEnv {
    /// `env`: the value of a variable, as `std::env::var(name).ok()` gives it. Empty values count as not set.
    pub fn read(env: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| env(name).filter(|value| !value.is_empty());
        let home = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| var(name).map(|value| expand(&value, home.as_deref()));
        let is_on = |name: &str, words: &[&str]| var(name).is_some_and(|value| words.contains(&&*value.to_lowercase()));
        let hub = match LLAMAFACTORY_ON {
            on if is_on("USE_MODELSCOPE_HUB", on) => Hub::ModelScope,
            on if is_on("USE_OPENMIND_HUB", on) => Hub::OpenMind,
            _ => Hub::HuggingFace,
        };
        let user_cache = path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| Some(user_cache?.join("huggingface")));
        let is_modelscope = hub == Hub::ModelScope;
        let endpoint = with_scheme(match is_modelscope {
            true => {
                var("MODELSCOPE_ENDPOINT").or_else(|| var("MODELSCOPE_DOMAIN")).unwrap_or("www.modelscope.cn".into())
            }
            false => var("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()),
        });
        let scheme = endpoint.split(':').next().unwrap_or("https").to_lowercase();
        let proxies = [format!("{scheme}_proxy"), "all_proxy".into()];
        let proxies = proxies.iter().flat_map(|name| [name.to_uppercase(), name.clone()]);
        let is_implicit = is_modelscope || !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN", HF_ON);
        let direct = || var("NO_PROXY").or_else(|| var("no_proxy")).unwrap_or_default();
        Self {
            cache: match is_modelscope {
                true => path("MODELSCOPE_CACHE").or_else(|| Some(home.as_ref()?.join(".cache/modelscope"))),
                false => path("HF_HUB_CACHE").or_else(|| Some(hf_home.as_ref()?.join("hub"))),
            },
            endpoint,
            token: match is_modelscope {
                true => var("MODELSCOPE_API_TOKEN"),
                false => var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")),
            }
            .filter(|_| is_implicit)
            .and_then(|text| Token::new(&text)),
            token_file: path("HF_TOKEN_PATH")
                .or_else(|| Some(hf_home.as_ref()?.join("token")))
                .filter(|_| hub == Hub::HuggingFace && is_implicit),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().any(|name| is_on(name, HF_ON)),
            proxy: proxies.into_iter().find_map(|name| var(&name)).map(|proxy| (proxy, direct())),
            silence: var("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|text| text.parse().ok())
                .filter(|seconds| *seconds > 0)
                .map_or(SILENCE, |seconds| Duration::from_secs(seconds).min(LONGEST_SILENCE)),
            pause: Duration::from_secs(1),
            hub,
            home,
        }
    }

    /// The tokens of a config win over the environment's.
    pub fn with_tokens(mut self, tokens: &HubTokens) -> Self {
        let said = match self.hub {
            Hub::ModelScope => &tokens.model_scope,
            _ => &tokens.hugging_face,
        };
        self.token = said.clone().or(self.token);
        self
    }

    /// Another wait before the second attempt.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Where downloads are kept.
    pub(super) fn cache(&self, cache_dir: Option<&Path>) -> Option<PathBuf> {
        cache_dir.map(Path::to_owned).or(self.cache.clone())
    }

    /// The token to send, if there is one.
    pub(super) fn token(&self) -> Option<Token> {
        let stored = || Token::new(&std::fs::read_to_string(self.token_file.as_ref()?).ok()?);
        self.token.clone().or_else(stored)
    }

    /// The endpoint as it may be shown: an address can hold a name and a password.
    pub(super) fn shown_endpoint(&self) -> String {
        without_password(&self.endpoint)
    }
}

/// The values that LlamaFactory takes for yes.
const LLAMAFACTORY_ON: &[&str] = &["true", "y", "1"];

/// The values that `huggingface_hub` takes for yes.
const HF_ON: &[&str] = &["1", "on", "yes", "true"];

/// Longer than the 10 seconds of `huggingface_hub`: an attempt that is cut short has to be paid for again.
const SILENCE: Duration = Duration::from_secs(30);

/// No point in time lies behind all that a `Duration` can say.
const LONGEST_SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// `www.modelscope.cn` is an address too.
fn with_scheme(endpoint: String) -> String {
    let endpoint = endpoint.trim().trim_end_matches('/');
    let is_whole = ["http://", "https://"].iter().any(|scheme| endpoint.to_lowercase().starts_with(scheme));
    if is_whole { endpoint.to_owned() } else { format!("https://{endpoint}") }
}

/// `https://name:password@host/path` → `https://host/path`; what follows a `?` may be a signature and goes too.
pub(super) fn without_password(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub_env(vars: &[(&str, &str)]) -> HubEnv {
        HubEnv::read(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    const MODELSCOPE: (&str, &str) = ("USE_MODELSCOPE_HUB", "1");

    #[test]
    fn the_environment_is_read_as_the_hubs_own_programs_read_it() {
        for (vars, cache, why) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub", "the default"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub", "the system's cache folder"),
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub", "HF_HOME, with a tilde"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c", "HF_HUB_CACHE wins"),
            (&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub", "an empty one is not set"),
            (&[("HOME", "/h"), ("HF_HOME", "/hf"), MODELSCOPE], "/h/.cache/modelscope", "ModelScope's own"),
            (&[("HOME", "/h"), ("MODELSCOPE_CACHE", "~/ms"), MODELSCOPE], "/h/ms", "and where it was moved to"),
            (&[("HOME", "/h"), ("USE_MODELSCOPE_HUB", "0")], "/h/.cache/huggingface/hub", "switched off"),
        ] {
            assert_eq!(hub_env(vars).cache.as_deref(), Some(Path::new(cache)), "{why}");
        }
        assert_eq!(hub_env(&[]).cache, None);
        for (value, want) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false), ("false", false)] {
            assert_eq!(hub_env(&[("HF_HUB_OFFLINE", value)]).offline, want, "HF_HUB_OFFLINE={value}");
        }
        for (vars, want) in [
            (&[][..], "https://huggingface.co"),
            (&[("HF_ENDPOINT", "https://mirror/")], "https://mirror"),
            (&[("HF_ENDPOINT", "hf-mirror.com")], "https://hf-mirror.com"),
            (&[MODELSCOPE], "https://www.modelscope.cn"),
            (&[MODELSCOPE, ("MODELSCOPE_DOMAIN", "modelscope.ai")], "https://modelscope.ai"),
            (&[MODELSCOPE, ("MODELSCOPE_ENDPOINT", "http://a:1/"), ("MODELSCOPE_DOMAIN", "b")], "http://a:1"),
        ] {
            assert_eq!(hub_env(vars).endpoint, want, "{vars:?}");
        }
        for (vars, want) in [
            (
                &[("https_proxy", "p:1"), ("http_proxy", "q:2"), ("no_proxy", "localhost")][..],
                Some(("p:1", "localhost")),
            ),
            (&[("https_proxy", "p:1"), ("HF_ENDPOINT", "http://mirror")], None),
            (&[("ALL_PROXY", "r:3"), ("HTTPS_PROXY", "p:1")], Some(("p:1", ""))),
            (&[("ALL_PROXY", "r:3")], Some(("r:3", ""))),
        ] {
            let want = want.map(|(proxy, direct)| (proxy.to_owned(), direct.to_owned()));
            assert_eq!(hub_env(vars).proxy, want, "{vars:?}");
        }
        assert_eq!(hub_env(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).silence, Duration::from_secs(7));
        assert_eq!(hub_env(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).silence, SILENCE);
        assert_eq!(hub_env(&[("HF_HUB_DOWNLOAD_TIMEOUT", "18446744073709551615")]).silence, LONGEST_SILENCE);
    }

    #[test]
    fn the_token_is_the_configs_the_variable_or_the_file_that_login_left() {
        let dir = tempfile::tempdir().unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        let token = |env: HubEnv| env.token().map(|token| token.reveal().to_owned());
        assert_eq!(token(hub_env(&[home])), None);
        std::fs::write(dir.path().join("token"), "from-file\n").unwrap();
        assert_eq!(token(hub_env(&[home])).as_deref(), Some("from-file"));
        assert_eq!(token(hub_env(&[home, ("HF_TOKEN", "mine")])).as_deref(), Some("mine"));
        let tokens = HubTokens { hugging_face: Token::new("said"), model_scope: Token::new("said-too") };
        let said = |vars: &[(&str, &str)]| token(hub_env(vars).with_tokens(&tokens));
        assert_eq!(said(&[home, ("HF_TOKEN", "mine")]).as_deref(), Some("said"));
        let asked_only = [home, ("HF_TOKEN", "mine"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token(hub_env(&asked_only)), None, "neither the variable nor the file");
        assert_eq!(said(&asked_only).as_deref(), Some("said"), "a config asks");

        let theirs = [home, MODELSCOPE, ("HF_TOKEN", "mine"), ("MODELSCOPE_API_TOKEN", "theirs")];
        assert_eq!(token(hub_env(&theirs)).as_deref(), Some("theirs"));
        assert_eq!(token(hub_env(&theirs[..3])), None, "a token of one hub never goes to another");
        assert_eq!(said(&theirs).as_deref(), Some("said-too"));
    }

    #[test]
    fn an_address_is_shown_without_what_it_hides() {
        for (url, want) in [
            ("https://me:secret@mirror/hf", "https://mirror/hf"),
            ("https://mirror/a@b", "https://mirror/a@b"),
            ("https://cdn/x?Signature=abc", "https://cdn/x"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(url), want);
        }
        assert_eq!(hub_env(&[("HF_ENDPOINT", "http://me:secret@m")]).shown_endpoint(), "http://m");
    }
}
