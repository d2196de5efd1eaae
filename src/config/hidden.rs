//! Stars for the secrets in what errors quote: a line of a config, an override, a parser's own words.
//!
//! A secret is the value of a secret key, to where the value ends, or a word with the shape of a token, wherever it stands.
//! There are as many characters as before, so that a caret below a line stays where it is. In doubt there are stars: an error
//! names line, column and fault besides.

use super::token::is_secret;

/// What a word begins with, and how much must follow, to be taken for a token.
const SHAPES: [(&str, usize); 3] = [("hf_", 10), ("api_org_", 10), ("ms-", 20)];
/// Digits of the groups of a UUID, which is what ModelScope's older tokens are.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

/// Line `number`, from 1, of the config `text`.
pub fn line(text: &str, number: usize) -> String {
    let mut open: Option<Open> = None;
    let mut shown = String::new();
    for line in text.lines().take(number) {
        match open.take().and_then(|open| open.over(line)) {
            Some(still) => {
                shown = line.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect();
                open = Some(still);
            }
            None => {
                shown = pair(line);
                open = Open::behind(line);
            }
        }
    }
    if text.lines().nth(number - 1).is_some() { shown } else { String::new() }
}

/// `key: value` or `key=value` on one line, or several of them.
pub fn pair(line: &str) -> String {
    scan(line, true)
}

/// A text without keys.
pub fn words(text: &str) -> String {
    scan(text, false)
}

fn scan(text: &str, with_keys: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !is_of_word(c) {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (word, behind) = split(rest, |c| !is_of_word(c));
        rest = behind;
        if is_token(word) {
            let (parts, behind) = split(rest, |c| !is_of_word(c) && c != '.'); // a JSON web token has dots in it
            out.push_str(&stars(word));
            out.push_str(&stars(parts));
            rest = behind;
            continue;
        }
        out.push_str(word);
        if with_keys
            && is_secret(word)
            && let Some((between, value)) = value_behind(rest)
        {
            out.push_str(between);
            out.push_str(&stars(value));
            rest = &rest[between.len() + value.len()..];
        }
    }
    out
}

/// Names of files and folders may begin as tokens do; they have `_` in them, and neither digits nor capitals.
fn is_token(word: &str) -> bool {
    let is_random = |rest: &str| {
        !rest.contains('_') || rest.bytes().any(|b| b.is_ascii_digit()) && rest.bytes().any(|b| b.is_ascii_uppercase())
    };
    let has_shape = |(begin, len): &(&str, usize)| {
        word.strip_prefix(begin).is_some_and(|rest| rest.len() >= *len && is_random(rest))
    };
    let is_uuid = || {
        let groups: Vec<&str> = word.split('-').collect();
        groups.iter().map(|group| group.len()).eq(UUID)
            && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    SHAPES.iter().any(has_shape) || word.starts_with("hf_oauth_") || is_uuid()
}

/// What stands between a key and its value (`": "`, ` = `; also full-width, which some type), and the value up to its end. `None`:
/// the word was no key.
fn value_behind(rest: &str) -> Option<(&str, &str)> {
    let closed = rest.trim_start_matches(['"', '\'', '“', '”', '‘', '’']).trim_start();
    let value = closed.strip_prefix([':', '=', '：', '＝'])?.trim_start();
    let between = &rest[..rest.len() - value.len()];
    let end = match Quote::at(value).and_then(|quote| quote.end(&value[quote.0.len()..]).map(|end| end + quote.0.len()))
    {
        // What belongs to no other key belongs to this one.
        Some(end) if value[end..].trim_start().chars().next().is_none_or(|c| ",}]#".contains(c)) => end,
        _ => value.len(),
    };
    Some((between, &value[..end]))
}

/// A quote that a value begins with.
#[derive(Clone, Copy)]
struct Quote(&'static str);

impl Quote {
    fn at(value: &str) -> Option<Self> {
        [r#"""""#, "'''", "\"", "'"].into_iter().find(|quote| value.starts_with(quote)).map(Self)
    }

    /// The byte behind the same quote in `text`. A backslash takes its meaning from a quote.
    fn end(self, text: &str) -> Option<usize> {
        let mut is_escaped = false;
        let at = text.char_indices().find_map(|(at, c)| {
            let ends = !is_escaped && text[at..].starts_with(self.0);
            is_escaped = c == '\\' && !is_escaped;
            ends.then_some(at)
        });
        at.map(|at| at + self.0.len())
    }
}

/// A secret whose value may go on below its key.
struct Open {
    /// Blanks before the line of the key.
    indent: usize,
    /// The quote that has not ended yet.
    quote: Option<Quote>,
    /// A quoted value has ended: whatever looks like a key is one.
    is_whole: bool,
    /// Nothing of the value has come yet.
    is_empty: bool,
}

impl Open {
    /// What is open behind `line`, whose last key is a secret.
    fn behind(line: &str) -> Option<Self> {
        if line.trim_start().starts_with('#') {
            return None;
        }
        let (mut rest, mut last) = (line, None);
        while let Some(start) = rest.find(is_of_word) {
            let (word, behind) = split(&rest[start..], |c| !is_of_word(c));
            rest = behind;
            if is_secret(word) {
                let is_bare = behind.chars().all(|c| c.is_whitespace() || "\"'".contains(c));
                let Some((between, value)) = value_behind(behind).or(is_bare.then_some((behind, ""))) else { continue };
                rest = &behind[between.len() + value.len()..];
                last = Some((value, rest));
            }
        }
        let (value, after) = last?;
        let quote = Quote::at(value);
        let closed = quote.is_some_and(|quote| quote.end(&value[quote.0.len()..]).is_some());
        let others = after.split('#').next().unwrap_or_default();
        let is_last = !others.contains(is_of_word);
        let is_empty = value.split('#').next().unwrap_or_default().trim().is_empty();
        is_last.then(|| Self { indent: indent(line), quote: quote.filter(|_| !closed), is_whole: closed, is_empty })
    }

    /// What is open behind `line`, which belongs to the value; `None` where it does not.
    fn over(mut self, line: &str) -> Option<Self> {
        if let Some(quote) = self.quote {
            if quote.end(line).is_some() {
                (self.quote, self.is_whole) = (None, true);
            }
            return Some(self);
        }
        let text = line.trim_start();
        let is_quoted = text.trim_start_matches(['{', ',', ' ']).starts_with(['"', '\'']);
        // Where the value has not come yet, what stands in quotes is rather that.
        let begins = begins_a_key(text) && !(self.is_empty && is_quoted) || self.is_whole && text.starts_with('[');
        if begins && (self.is_whole || indent(line) <= self.indent) {
            return None;
        }
        self.is_empty &= !text.contains(char::is_alphanumeric);
        Some(self)
    }
}

/// `key: …`, `"key": …` or `key = …`, also behind a brace.
fn begins_a_key(text: &str) -> bool {
    let text = text.trim_start_matches(['{', ',', ' ']);
    let text = text.strip_prefix(['"', '\'']).unwrap_or(text);
    let (word, behind) = split(text, |c| !is_of_word(c) && c != '.');
    let unquoted = behind.strip_prefix(['"', '\'']).unwrap_or(behind);
    let is_quoted = unquoted.len() < behind.len();
    let separated = unquoted.trim_start();
    let ends = |rest: &str| rest.is_empty() || rest.starts_with([' ', '\t']);
    !word.is_empty()
        && match (separated.strip_prefix(':'), separated.strip_prefix('=')) {
            (Some(rest), _) => is_quoted || ends(rest),
            (_, Some(rest)) => !rest.trim().is_empty() && !rest.starts_with('='), // base64 ends with `=`
            _ => false,
        }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
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
            (r#"hub_token = """abc""" x"#, "hub_token = ***********", "three quotes, and what follows them"),
            ("swanlab_api_key: 'abc'", "swanlab_api_key: *****", "keys that are ignored"),
            ("push_to_hub_token=abc", "push_to_hub_token=***", "keys that are refused"),
            ("hf_hub_tokn: abc", "hf_hub_tokn: ***", "a misspelt key"),
            ("other: hf_0123456789abc", "other: ****************", "another key, known by the token"),
            (
                "other: hf_oauth_eyJh.eyJz_d-I.Sfl x",
                "other: ************************** x",
                "one that holds `_` and dots",
            ),
            ("other: 0f3b6c1e-8d44-4a57-9b2f-5c6d7e8f9012", &format!("other: {}", "*".repeat(36)), "a UUID"),
            ("model: [hf_0123456789abc]", "model: [****************]", "in the wrong place"),
            ("hf_hub_token: 密钥 ", "hf_hub_token: ** ", "characters, not bytes"),
            ("hf_hub_token：abc", "hf_hub_token：***", "a full-width colon"),
            ("  ms_hub_token ＝ \"abc\" # mine", "  ms_hub_token ＝ ***** # mine", "a full-width sign"),
            ("{“hub_token”：“abc”}", "{“hub_token”：******", "full-width quotes"),
            ("hf_hub_token:", "hf_hub_token:", "no value"),
            ("hf_hub_token abc", "hf_hub_token abc", "no key"),
            ("hf_hub_url: org/data", "hf_hub_url: org/data", "a short word that begins as tokens do"),
            ("cache_dir: hf_models_cache_2", "cache_dir: hf_models_cache_2", "a long one"),
            ("max_new_tokens: 5 # 个 token", "max_new_tokens: 5 # 个 token", "a count of tokens"),
        ] {
            assert_eq!(pair(line), want, "{why}");
        }
    }

    #[test]
    fn a_secret_that_goes_on_below_its_key_is_not_shown_and_what_comes_behind_it_is() {
        // What is asked for is the last line.
        for (text, is_shown, why) in [
            ("hf_hub_token:\nabc def", false, "YAML, on the next line"),
            ("hf_hub_token：\nabc def", false, "behind a full-width colon"),
            ("hf_hub_token:\n  abc: def", false, "further in, whatever it looks like"),
            ("hf_hub_token: # mine\nabc", false, "behind a comment"),
            ("hf_hub_token: abc\ndef", false, "broken in two"),
            ("hf_hub_token: |\n  abc\n\n  def", false, "a block"),
            ("hf_hub_token:\n- abc", false, "a list"),
            ("hf_hub_token: [\n  abc", false, "a list in brackets"),
            ("hf_hub_token: 'abc\ndef: x\nghi", false, "in quotes that have not ended"),
            ("? hf_hub_token\n: abc", false, "YAML's long form of a key"),
            ("hf_hub_token:\nabc==", false, "base64"),
            ("ms_hub_token = \"\"\"\nabc\"\"\" x", false, "TOML, in three quotes"),
            ("ms_hub_token = \"\"\"\na = 1\nb = 2", false, "and what looks like keys in them"),
            ("ms_hub_token = \n\"abc\" x", false, "TOML, on the next line"),
            ("{\"ms_hub_token\":\n\"abc\"x}", false, "JSON, on the next line"),
            ("{\"ms_hub_token\":\n\"abc\": x}", false, "what might be a key too"),
            ("{\"ms_hub_token\"\n: \"abc\"}", false, "before the colon"),
            ("hf_hub_token: abc\nlora_rnk: 8", true, "the next key of a YAML"),
            ("hf_hub_token:\nlora_rnk: 8", true, "a token that is left out"),
            ("hf_hub_token: |\n  abc\nlora_rnk: 8", true, "behind a block"),
            ("hf_hub_token: 'a\nb'\nlora_rnk: 8", true, "behind quotes"),
            ("  ms_hub_token = \"abc\"\n    lora_rnk = 8", true, "the next key of a TOML"),
            ("ms_hub_token = \"abc\" # mine\n[trian]", true, "the next section"),
            ("ms_hub_token = \"\"\"\nabc\"\"\"\n[trian]", true, "and that behind three quotes"),
            ("{\"ms_hub_token\": \"abc\",\n  \"lora_rnk\": 8", true, "the next key of a JSON"),
            ("{\"ms_hub_token\": \"abc\", \"seed\":\n 1x", true, "the value of another key"),
            ("# hf_hub_token: \"abc\nlora_rnk: 8", true, "behind a comment"),
        ] {
            let number = text.lines().count();
            let last = text.lines().last().unwrap();
            let want: String = last.chars().map(|c| if c.is_whitespace() || is_shown { c } else { '*' }).collect();
            assert_eq!(line(text, number), want, "{why}");
            assert_eq!(line(text, number + 1), "", "past the end");
        }
    }
}
