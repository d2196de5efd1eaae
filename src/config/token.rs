//! Tokens of model hubs: read, sent, and never shown.
//!
//! Nothing prints one: [`Token`] has no `Display` and is not serialised, its `Debug` says nothing, and [`super::hidden`] takes
//! them out of what errors quote.

use std::fmt;

/// A token of a hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Blanks around it are dropped; `None` when nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The token itself: for the header of a request, and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The tokens that a config gives; each wins over the environment's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubTokens {
    /// `hf_hub_token`
    pub hugging_face: Option<Token>,
    /// `ms_hub_token`
    pub model_scope: Option<Token>,
}

/// Whether the value of a key is a secret, also of a key that is refused, ignored, or a slip for one that is read.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let is_slip = |of: &&str| strsim::normalized_damerau_levenshtein(&key, of) >= 0.8;
    ["token", "api_key", "secret"].iter().any(|end| key.ends_with(end))
        || ["hf_hub_token", "ms_hub_token"].iter().any(is_slip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_and_shows_nothing() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.reveal(), "hf_secret");
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_eq!(Token::new(" \n"), None);
        let tokens = HubTokens { hugging_face: Some(token), model_scope: None };
        assert!(!format!("{tokens:?}").contains("secret"));
    }

    #[test]
    fn keys_of_secrets_are_known_with_a_slip_in_them_too() {
        for key in ["hf_hub_token", "HF_TOKEN", "swanlab_api_key", "hf_hub_tokn", "ms_hub_tokens", "hf_hubtoken"] {
            assert!(is_secret(key), "{key}");
        }
        let all = crate::config::table::TABLE.iter().flat_map(|(_, keys)| keys.iter()).map(|key| key.name);
        for key in all.filter(|key| is_secret(key)) {
            assert!(["token", "api_key", "secret"].iter().any(|end| key.ends_with(end)), "{key}");
        }
    }
}
