//! What a line of a conversation asks for.

/// What there is to type.
pub(super) const HELP: &str = "\
Type a message, and the model answers; what was said before is remembered.
  /system TEXT      what the model is told before all else; without TEXT, say what it is; - takes it away
  /reset            forget what was said, and begin again
  /set              say how answers are made
  /set NAME VALUE   change it: temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, verbose
  /save FILE        write the conversation as JSON, a list of messages
  /load FILE        go on from one
  /bye              leave (so does Ctrl-D)
A message of several lines stands between \"\"\" and \"\"\", or has \\ at the ends of its lines; a text that is pasted
keeps its lines. Ctrl-C stops an answer.";

/// A line of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Say(String),
    System(Option<String>),
    Reset,
    Show,
    Set(String, String),
    Save(String),
    Load(String),
    Help,
    Bye,
    Unknown(String),
    Nothing,
}

impl Command {
    /// What a whole line means, the lines between `"""` being one.
    pub(super) fn of(line: &str) -> Command {
        let trimmed = line.trim();
        if let Some(quoted) = quoted(trimmed) {
            return if quoted.trim().is_empty() { Command::Nothing } else { Command::Say(quoted.to_owned()) };
        }
        let text = joined(line);
        if trimmed.is_empty() {
            return Command::Nothing;
        }
        if !trimmed.starts_with('/') {
            return Command::Say(text);
        }
        let (name, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("/bye" | "/exit" | "/quit", "") => Command::Bye,
            ("/help" | "/?", "") => Command::Help,
            ("/reset" | "/new" | "/clear", "") => Command::Reset,
            ("/system", "") => Command::System(None),
            ("/system", "-") => Command::System(Some(String::new())),
            ("/system", text) => Command::System(Some(quoted(text).map_or_else(|| joined(text), str::to_owned))),
            ("/set", "") => Command::Show,
            ("/set", rest) => match rest.split_once([' ', '=']) {
                Some((name, value)) => Command::Set(name.replace('-', "_"), value.trim().to_owned()),
                None => Command::Unknown(format!("/set {rest} without a value")),
            },
            ("/save", file) if !file.is_empty() => Command::Save(file.to_owned()),
            ("/load", file) if !file.is_empty() => Command::Load(file.to_owned()),
            ("/save" | "/load", _) => Command::Unknown(format!("{name} without a file")),
            // A path, or another text that begins with a slash, is no command.
            _ if name[1..].contains('/') => Command::Say(text),
            _ => Command::Unknown(name.to_owned()),
        }
    }
}

/// What stands between `"""` and `"""`.
fn quoted(text: &str) -> Option<&str> {
    let inside = text.strip_prefix(QUOTES)?.strip_suffix(QUOTES)?;
    Some(inside.strip_prefix('\n').unwrap_or(inside).trim_end_matches('\n'))
}

/// What begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Lines whose ends have a backslash, without it.
fn joined(text: &str) -> String {
    text.replace("\\\n", "\n").trim_end_matches('\n').to_owned()
}

/// Whether more lines belong to what was typed.
pub(super) fn goes_on(text: &str) -> bool {
    let trimmed = text.trim();
    let inside = trimmed.strip_prefix(QUOTES).or_else(|| trimmed.strip_prefix("/system")?.trim().strip_prefix(QUOTES));
    match inside {
        Some(inside) => !inside.ends_with(QUOTES),
        None => text.ends_with('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        let say = |text: &str| Command::Say(text.to_owned());
        for (line, command) in [
            ("", Command::Nothing),
            ("  ", Command::Nothing),
            ("Hello, /you", say("Hello, /you")),
            ("/bye", Command::Bye),
            ("/bye now", Command::Unknown("/bye".into())),
            ("/etc/passwd is a file", say("/etc/passwd is a file")),
            ("/nothing", Command::Unknown("/nothing".into())),
            ("/set", Command::Show),
            ("/set temperature 0.7", Command::Set("temperature".into(), "0.7".into())),
            ("/set top-k=5", Command::Set("top_k".into(), "5".into())),
            ("/set top_k", Command::Unknown("/set top_k without a value".into())),
            ("/system", Command::System(None)),
            ("/system -", Command::System(Some(String::new()))),
            ("/system Be brief.", Command::System(Some("Be brief.".into()))),
            ("/system \"\"\"a\nb\"\"\"", Command::System(Some("a\nb".into()))),
            ("/save a b.json", Command::Save("a b.json".into())),
            ("/load", Command::Unknown("/load without a file".into())),
            ("\"\"\"\na\n\n/bye\n\"\"\"", say("a\n\n/bye")),
            ("\"\"\"  \"\"\"", Command::Nothing),
            ("a \\\nb\\\nc", say("a \nb\nc")),
            ("  indented\n  twice", say("  indented\n  twice")),
        ] {
            assert_eq!(Command::of(line), command, "{line:?}");
        }
    }

    #[test]
    fn quotes_and_backslashes_go_on() {
        for (text, more) in [
            ("a", false),
            ("a\\", true),
            ("a\\\nb", false),
            ("\"\"\"", true),
            ("\"\"\"a", true),
            ("\"\"\"a\nb\"\"\"", false),
            ("/system \"\"\"a", true),
            ("say \"\"\"", false),
        ] {
            assert_eq!(goes_on(text), more, "{text:?}");
        }
    }
}
