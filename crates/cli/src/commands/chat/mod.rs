//! A conversation in a terminal, with a model that has a chat template: lines are read, commands are done, questions are
//! answered, until somebody leaves.

mod command;
mod lines;
mod session;

use anyhow::Result;
use bouquet_generate::{Adapted, GenerateError};
use bouquet_model::chat_template::ChatTemplate;

use self::command::{Command, HELP};
use self::lines::{Line, Lines};
pub(super) use self::session::Settings;
use self::session::{Answered, Session};
use super::run::note_timings;
use crate::errors::report;
use crate::interrupt::Work;
use crate::output;

/// Reads lines and answers them until somebody leaves, with a model that is called `name`. Without `history`, nothing of
/// what is typed is kept.
pub(super) fn converse(
    adapted: Adapted<'_>,
    name: &str,
    template: &ChatTemplate,
    settings: Settings,
    history: bool,
) -> Result<()> {
    let mut session = Session::open(adapted, template, settings)?;
    let mut lines = Lines::open(history)?;
    output::note(&format!("This is {name}. Type a message; /help lists the commands, /bye leaves."));
    loop {
        let line = match lines.next()? {
            Line::Text(line) => line,
            Line::End => return Ok(()),
        };
        match Command::of(&line) {
            Command::Nothing => {}
            Command::Bye => return Ok(()),
            Command::Help => output::note(HELP),
            Command::Unknown(word) => output::note(&format!("{word} is not known; /help lists what is")),
            Command::Say(text) => say(&mut session, &text)?,
            other => {
                match session.obey(other) {
                    Ok(said) => output::note(&said),
                    Err(error) => drop(report(&error)),
                }
                output::note("");
            }
        }
    }
}

/// Answers a message, or says why there is no answer, which leaves the conversation as it was.
///
/// # Errors
/// Those that end a conversation: nobody can be told.
fn say(session: &mut Session<'_>, text: &str) -> Result<()> {
    let work = Work::begin();
    let mut written = Ok(());
    let answered = session.answer(text, &work.cancel, &mut |piece| {
        if written.is_ok() {
            written = output::write(piece);
        }
    });
    drop(work);
    written?;
    match answered {
        Ok(Answered { timings, forgotten }) => {
            output::write("\n")?;
            if forgotten > 0 {
                let turns = output::counted(forgotten, "turn");
                let context = output::tokens(session.context());
                output::note(&format!("(the context of {context} is full: the oldest {turns} are forgotten)"));
            }
            if session.verbose() {
                note_timings(&timings, None);
            }
        }
        Err(error) if error.downcast_ref::<GenerateError>().is_some() => drop(report(&error)),
        Err(error) => return Err(error),
    }
    output::note("");
    Ok(())
}
