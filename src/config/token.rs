//! Tokens of model hubs: read, sent, and never shown.
//!
//! Nothing prints one: [`Token`] has no `Display` and is not serialised, its `Debug` says nothing, and [`hidden`] takes them out
//! of the config lines that errors quote.

use std::fmt;

/// What a word begins with, and how much must follow without a `_`, to be taken for a token wherever it stands.
const SHAPES: [(&str, usize); 3] = [("hf_", 10), ("api_org_", 10), ("ms-", 20)];

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

/// Whether the value of a key is a secret, also of a key that is refused or ignored.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["token", "api_key", "secret"].iter().any(|end| key.ends_with(end))
}

/// `line` of a config with stars for the secrets in it: the values of secret keys, and words that have the shape of a token.
/// As many characters as before, so that a caret below it stays where it is.
pub fn hidden(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if !is_of_word(c) {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (word, behind) = split(rest, |c| !is_of_word(c));
        let is_rest = |rest: &str, len: usize| rest.len() >= len && !rest.contains('_');
        let is_token =
            SHAPES.iter().any(|(begin, len)| word.strip_prefix(begin).is_some_and(|rest| is_rest(rest, *len)));
        out.push_str(if is_token { stars(word) } else { word.to_owned() }.as_str());
        rest = behind;
        if is_secret(word)
            && let Some((between, value)) = value_behind(rest)
        {
            out.push_str(between);
            out.push_str(&stars(value));
            rest = &rest[between.len() + value.len()..];
        }
    }
    out
}

/// What stands between a key and its value (`": "`, ` = `), and the value up to its end. `None`: the word was no key.
fn value_behind(rest: &str) -> Option<(&str, &str)> {
    let closed = rest.trim_start_matches(['"', '\'']).trim_start();
    let value = closed.strip_prefix([':', '='])?.trim_start();
    let between = &rest[..rest.len() - value.len()];
    let quote = value.chars().next().filter(|c| ['"', '\''].contains(c));
    let value = match quote {
        // An escaped quote does not end it.
        Some(quote) => {
            let mut escaped = false;
            let end = value[1..].find(|c| {
                let ends = c == quote && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.map_or(value.len(), |end| end + 2);
            // What belongs to no other key belongs to this one.
            let is_whole = value[end..].trim_start().chars().next().is_none_or(|c| [',', '}', ']', '#'].contains(&c));
            if is_whole { &value[..end] } else { value }
        }
        None => value,
    };
    Some((between, value))
}

/// Blanks at the end stay.
fn stars(secret: &str) -> String {
    let text = secret.trim_end();
    "*".repeat(text.chars().count()) + &secret[text.len()..]
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-".contains(c)
}

fn split(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
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
    fn secrets_are_taken_out_of_a_line_and_nothing_else_is() {
        for (line, want, why) in [
            ("hf_hub_token: abc", "hf_hub_token: ***", "YAML"),
            (
                "hf_hub_token: abc def # mine",
                "hf_hub_token: **************",
                "to the end of the line, whatever it holds",
            ),
            ("  ms_hub_token = \"abc\"  # mine", "  ms_hub_token = *****  # mine", "TOML"),
            (r#"{"hf_hub_token": "a\"bc", "seed": 1}"#, r#"{"hf_hub_token": *******, "seed": 1}"#, "JSON on one line"),
            (r#"{"hub_token":"abc" "def"}"#, r#"{"hub_token":************"#, "two strings"),
            (r#"{"hub_token":"abc"#, r#"{"hub_token":****"#, "a string without an end"),
            ("swanlab_api_key: 'abc'", "swanlab_api_key: *****", "keys that are ignored"),
            ("push_to_hub_token=abc", "push_to_hub_token=***", "keys that are refused"),
            ("hf_hub_tokn: hf_0123456789abc", "hf_hub_tokn: ****************", "a misspelt key, known by the token"),
            ("model: [hf_0123456789abc]", "model: [****************]", "in the wrong place"),
            ("hf_hub_token: 密钥 ", "hf_hub_token: ** ", "characters, not bytes"),
            ("hf_hub_token:", "hf_hub_token:", "no value"),
            ("hf_hub_token abc", "hf_hub_token abc", "no key"),
            ("hf_hub_url: org/data", "hf_hub_url: org/data", "a short word that begins as tokens do"),
            ("max_new_tokens: 5 # 个 token", "max_new_tokens: 5 # 个 token", "a count of tokens"),
        ] {
            assert_eq!(hidden(line), want, "{why}");
        }
    }
}
