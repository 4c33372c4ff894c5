//! Where a session stands, and what was passed on for it: the state machine that makes losing a machine harmless.
//!
//! A session goes through *revisions*. Within one, sequences only grow; going back and reordering ([`Edit`]) begin the next.
//! So what stands at a position of a sequence in a revision is known once and for all, and with the same bits everywhere it
//! does not matter who sends it, or how often. A message names the revision, the edits that led to it, and the positions of
//! its rows; a receiver skips what it has and refuses what does not follow.
//!
//! Everyone in the ring, the client included, keeps a [`Ledger`] of the rows that it passed on, and for whoever comes next
//! a [`Link`] that says how much of them that one has. Bringing a successor to the present is then nothing but sending it
//! what its link lacks, be it the last token or, for one that just took a dead machine's place, everything.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What begins a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// The tokens of a sequence from a position on are forgotten.
    Rewind {
        /// Which sequence.
        sequence: u32,
        /// The position of its next token.
        position: u32,
    },
    /// Sequence `i` becomes a copy of what sequence `from[i]` was.
    Reorder(Vec<u32>),
}

/// Where somebody stands in a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How many edits there have been.
    pub revision: u64,
    /// The position of the next token of each sequence.
    pub positions: Vec<u32>,
}

/// Rows on their way: what a message says besides the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// The revision that they belong to.
    pub revision: u64,
    /// What led to it from the one before.
    pub edits: Vec<Edit>,
    /// The position of the first row of each sequence.
    pub starts: Vec<u32>,
    /// The rows of each sequence.
    pub lengths: Vec<u32>,
    /// The positions of each sequence from which on the last machine returns its output to the client.
    pub wanted: Vec<u32>,
}

/// Why rows cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// They do not follow what is there.
    Gap {
        /// The position, or the revision, that should come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// They contradict themselves or the session.
    Wrong(&'static str),
}

/// What is to be done with rows that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// To be done to the cache first.
    pub edits: Vec<Edit>,
    /// How many of each sequence's rows are there already.
    pub skip: Vec<u32>,
}

/// What was passed on of one sequence, in the pieces that it came in. Cheap to clone, so that beams are.
#[derive(Clone, Debug, Default)]
struct History {
    pieces: Vec<Piece>,
    len: u32,
}

#[derive(Clone, Debug)]
struct Piece {
    start: u32,
    rows: u32,
    values: Arc<[f32]>,
}

/// Where this machine stands in a session, and the rows that it passed on.
#[derive(Clone, Debug)]
pub struct Ledger {
    width: usize,
    max_tokens: u32,
    standing: Standing,
    /// Those that led to this revision.
    edits: Vec<Edit>,
    wanted: Vec<u32>,
    histories: Vec<History>,
}

/// How much of a ledger the next machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    standing: Standing,
    /// The next machine is the client, which gets no more than it wants.
    to_client: bool,
    told: bool,
}

impl Standing {
    /// At the beginning of a revision, without any tokens.
    pub fn fresh(revision: u64, sequences: usize) -> Standing {
        Standing { revision, positions: vec![0; sequences] }
    }

    /// Does an edit.
    pub fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::Rewind { sequence, position } => {
                let held = &mut self.positions[*sequence as usize];
                *held = (*held).min(*position);
            }
            Edit::Reorder(from) => {
                self.positions = from.iter().map(|&from| self.positions[from as usize]).collect();
            }
        }
    }
}

impl Rows {
    /// Rows of all sequences together.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().map(|&length| length as usize).sum()
    }

    /// The positions after them.
    pub fn ends(&self) -> impl Iterator<Item = u32> + '_ {
        self.starts.iter().zip(&self.lengths).map(|(start, length)| start.saturating_add(*length))
    }
}

impl Ledger {
    /// A session that begins, or that is taken over at a revision, which these edits led to, with nothing in the cache yet.
    pub fn new(width: usize, sequences: usize, max_tokens: u32, revision: u64, edits: Vec<Edit>) -> Ledger {
        Ledger {
            width,
            max_tokens,
            standing: Standing::fresh(revision, sequences),
            edits,
            wanted: vec![0; sequences],
            histories: vec![History::default(); sequences],
        }
    }

    /// Where this machine stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What led to its revision.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The positions from which on the client wants the last machine's output.
    pub fn wanted(&self) -> &[u32] {
        &self.wanted
    }

    /// Whether rows that came can be taken, and how. Nothing is changed by asking.
    ///
    /// # Errors
    /// [`Misfit`]. `Ok(None)` for rows of a revision that is over.
    pub fn admit(&self, rows: &Rows) -> Result<Option<Admitted>, Misfit> {
        let sequences = self.histories.len();
        if [&rows.starts, &rows.lengths, &rows.wanted].iter().any(|list| list.len() != sequences) {
            return Err(Misfit::Wrong("its lists are not of as many sequences as the session"));
        }
        if rows.ends().zip(&rows.starts).any(|(end, &start)| end > self.max_tokens || start > self.max_tokens) {
            return Err(Misfit::Wrong("it goes beyond what the session reserved"));
        }
        let mut standing = self.standing.clone();
        let mut edits = Vec::new();
        if rows.revision < standing.revision {
            return Ok(None);
        }
        if rows.revision > standing.revision {
            if rows.revision != standing.revision + 1 {
                return Err(Misfit::Gap { expected: standing.revision + 1, found: rows.revision });
            }
            check_edits(&rows.edits, sequences)?;
            rows.edits.iter().for_each(|edit| standing.edit(edit));
            edits.clone_from(&rows.edits);
        }
        let mut skip = Vec::with_capacity(sequences);
        for ((&held, &start), &length) in standing.positions.iter().zip(&rows.starts).zip(&rows.lengths) {
            if start > held {
                return Err(Misfit::Gap { expected: u64::from(held), found: u64::from(start) });
            }
            skip.push(length.min(held - start));
        }
        Ok(Some(Admitted { edits, skip }))
    }

    /// After the edits of admitted rows were done to the cache: begins their revision, if it is not this one.
    pub fn begin(&mut self, rows: &Rows) {
        if rows.revision == self.standing.revision {
            return;
        }
        self.standing.revision = rows.revision;
        self.edits.clone_from(&rows.edits);
        self.wanted.fill(0);
        for edit in &rows.edits {
            self.standing.edit(edit);
            match edit {
                Edit::Rewind { sequence, position } => self.histories[*sequence as usize].truncate(*position),
                Edit::Reorder(from) => {
                    self.histories = from.iter().map(|&from| self.histories[from as usize].clone()).collect();
                }
            }
        }
    }

    /// What of the output the client wants, by rows of this revision. It never wants again what it has.
    pub fn want(&mut self, wanted: &[u32]) {
        for (known, &wanted) in self.wanted.iter_mut().zip(wanted) {
            *known = (*known).max(wanted);
        }
    }

    /// After the rest of admitted rows was computed: `output` has the rows that were not skipped, of all sequences one after
    /// another.
    pub fn append(&mut self, lengths: &[u32], output: &[f32]) {
        debug_assert_eq!(output.len(), self.width * lengths.iter().sum::<u32>() as usize);
        let mut rest = output;
        for (sequence, &length) in lengths.iter().enumerate() {
            let (values, after) = rest.split_at(length as usize * self.width);
            rest = after;
            if length > 0 {
                self.histories[sequence].push(length, values.into());
                self.standing.positions[sequence] += length;
            }
        }
    }

    /// Forgets rows before these positions: whoever is next needs them no more.
    pub fn forget(&mut self, before: &[u32]) {
        for (history, &before) in self.histories.iter_mut().zip(before) {
            history.pieces.retain(|piece| piece.start + piece.rows > before);
        }
    }

    /// Bytes of rows that are kept.
    pub fn bytes(&self) -> u64 {
        let pieces = self.histories.iter().flat_map(|history| &history.pieces);
        pieces.map(|piece| 4 * piece.values.len() as u64).sum()
    }

    /// What a link lacks, at most `max_rows` of it, and notes that it has it. `None` when it lacks nothing.
    ///
    /// # Errors
    /// [`Misfit::Gap`] for a link that is further behind than what is kept: its machine has to begin anew.
    pub fn next_for(&self, link: &mut Link, max_rows: u32) -> Result<Option<(Rows, Vec<f32>)>, Misfit> {
        let Standing { revision, positions } = &self.standing;
        let mut begins = false;
        if link.standing.revision != *revision {
            if link.standing.revision + 1 != *revision {
                return Err(Misfit::Gap { expected: *revision, found: link.standing.revision });
            }
            self.edits.iter().for_each(|edit| link.standing.edit(edit));
            link.standing.revision = *revision;
            begins = true;
        }
        if link.to_client {
            // Nothing before what is wanted goes to the client, and nothing before all of it has begun.
            if positions.iter().zip(&self.wanted).any(|(position, wanted)| position < wanted) {
                return Ok(None);
            }
            for (held, &wanted) in link.standing.positions.iter_mut().zip(&self.wanted) {
                begins |= *held < wanted;
                *held = (*held).max(wanted);
            }
        }
        let mut room = max_rows.max(1);
        let mut rows = Rows {
            revision: *revision,
            edits: self.edits.clone(),
            starts: link.standing.positions.clone(),
            lengths: Vec::with_capacity(positions.len()),
            wanted: self.wanted.clone(),
        };
        let mut values = Vec::new();
        for ((history, held), &position) in self.histories.iter().zip(&mut link.standing.positions).zip(positions) {
            let length = position.saturating_sub(*held).min(room);
            history.copy(*held..*held + length, self.width, &mut values)?;
            room -= length;
            *held += length;
            rows.lengths.push(length);
        }
        if values.is_empty() && !begins && link.told {
            return Ok(None);
        }
        link.told = true;
        Ok(Some((rows, values)))
    }
}

/// Whether edits are of a session of so many sequences.
///
/// # Errors
/// [`Misfit::Wrong`].
pub fn check_edits(edits: &[Edit], sequences: usize) -> Result<(), Misfit> {
    let known = |sequence: &u32| (*sequence as usize) < sequences;
    let fits = edits.iter().all(|edit| match edit {
        Edit::Rewind { sequence, .. } => known(sequence),
        Edit::Reorder(from) => from.len() == sequences && from.iter().all(known),
    });
    if fits { Ok(()) } else { Err(Misfit::Wrong("it edits a sequence that is not there")) }
}

impl Link {
    /// To a machine that stands there.
    pub fn to_server(standing: Standing) -> Link {
        Link { standing, to_client: false, told: true }
    }

    /// To the client, which has the output up to there.
    pub fn to_client(standing: Standing) -> Link {
        Link { standing, to_client: true, told: false }
    }
}

impl History {
    fn push(&mut self, rows: u32, values: Arc<[f32]>) {
        self.pieces.push(Piece { start: self.len, rows, values });
        self.len += rows;
    }

    fn truncate(&mut self, len: u32) {
        if len >= self.len {
            return;
        }
        self.pieces.retain(|piece| piece.start < len);
        if let Some(last) = self.pieces.last_mut() {
            last.rows = last.rows.min(len - last.start);
        }
        self.len = len;
    }

    fn copy(&self, rows: std::ops::Range<u32>, width: usize, values: &mut Vec<f32>) -> Result<(), Misfit> {
        let mut next = rows.start;
        let first = self.pieces.partition_point(|piece| piece.start + piece.rows <= rows.start);
        for piece in &self.pieces[first..] {
            if next >= rows.end {
                break;
            }
            if piece.start > next {
                return Err(Misfit::Gap { expected: u64::from(next), found: u64::from(piece.start) });
            }
            let end = rows.end.min(piece.start + piece.rows);
            values.extend(&piece.values[(next - piece.start) as usize * width..(end - piece.start) as usize * width]);
            next = end;
        }
        if next < rows.end {
            Err(Misfit::Gap { expected: u64::from(next), found: u64::from(self.len) })
        } else {
            Ok(())
        }
    }
}
