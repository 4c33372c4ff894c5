//! Which GGUF file of a repository is meant. A repository has many, one for each way to store the weights, and people say
//! which by the end of its name: `org/name:Q4_K_M`.

use std::collections::BTreeSet;

use bouquet_gguf::split;

/// What is taken when nothing was said, in this order: llama.cpp's choice, then what comes next to it in size and loss.
const PREFERRED: [&str; 5] = ["Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0"];

/// In the names of GGUF files that are no models: encoders of pictures, statistics for quantizing, heads for speculation.
const OTHERS: [&str; 3] = ["mmproj", "imatrix", "mtp-"];

/// Files that one model may be split into.
const MAX_PARTS: usize = 1000;

/// Names that an error lists.
const MAX_LISTED: usize = 30;

/// Characters that the path of a file may have, and folders that may be in it.
const MAX_PATH_CHARS: usize = 200;
pub(crate) const MAX_FOLDERS: usize = 4;

/// Why no file was chosen; with what there is, each by a name that means it alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// Nothing is called that.
    Nothing(Vec<String>),
    /// More than one is.
    Several(Vec<String>),
}

/// The models of a repository.
struct Models(BTreeSet<Model>);

/// The path of a file, or what the paths of all parts begin with, and how many there are.
type Model = (String, Option<usize>);

/// The files that hold the model that is meant, in order: of a split one all parts, whether or not they are there.
pub(crate) fn choose<'a>(
    files: impl IntoIterator<Item = &'a str>,
    choice: Option<&str>,
) -> std::result::Result<Vec<String>, Unclear> {
    let models = Models::of(files);
    match choice {
        Some(choice) => models.named(choice),
        None => models.usual(),
    }
}

/// The models among the files of a folder, in order: each by its file, or by the first of its parts.
pub fn models<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let models = Models::of(files);
    models.all().into_iter().filter_map(|model| models.files(model).into_iter().next()).collect()
}

/// Whether a file is a model, or a part of one, that lies in its repository's folder on every system.
pub(crate) fn is_model(file: &str) -> bool {
    let known = |c: char| c == ' ' || c.is_ascii_graphic() && !"\\:*?\"<>|".contains(c);
    let is_component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(['.', ' ']);
    let name = file_name(file).to_ascii_lowercase();
    file.len() <= MAX_PATH_CHARS
        && file.chars().all(known)
        && file.split('/').all(is_component)
        && file.matches('/').count() <= MAX_FOLDERS
        && name.ends_with(ENDING)
        && !OTHERS.iter().any(|other| name.contains(other))
}

const ENDING: &str = ".gguf";

impl Models {
    fn of<'a>(files: impl IntoIterator<Item = &'a str>) -> Models {
        let model = |file: &str| match split::place(file).filter(|place| place.count <= MAX_PARTS) {
            Some(place) => (place.prefix.to_owned(), Some(place.count)),
            None => (file.to_owned(), None),
        };
        Models(files.into_iter().filter(|file| is_model(file)).map(model).collect())
    }

    fn named(&self, choice: &str) -> std::result::Result<Vec<String>, Unclear> {
        let found = self.find(choice);
        match found[..] {
            [model] => Ok(self.files(model)),
            [] => Err(Unclear::Nothing(self.list(&self.all()))),
            _ => Err(Unclear::Several(self.list(&found))),
        }
    }

    fn usual(&self) -> std::result::Result<Vec<String>, Unclear> {
        if let Some(preferred) = PREFERRED.iter().find(|preferred| !self.find(preferred).is_empty()) {
            return self.named(preferred);
        }
        let all = self.all();
        match all[..] {
            [model] => Ok(self.files(model)),
            [] => Err(Unclear::Nothing(Vec::new())),
            _ => Err(Unclear::Several(self.list(&all))),
        }
    }

    fn all(&self) -> Vec<&Model> {
        self.0.iter().collect()
    }

    /// The models that a choice fits best: those of that path, else of that file name, else with it as the end of the
    /// name, else anywhere in the path as a word.
    fn find(&self, choice: &str) -> Vec<&Model> {
        let choice = stem(choice).to_ascii_lowercase();
        let mut best = (usize::MAX, Vec::new());
        for model in &self.0 {
            let path = stem(&model.0).to_ascii_lowercase();
            let name = file_name(&path);
            let fits = [
                path == choice,
                name == choice,
                name.strip_suffix(&choice).is_some_and(|front| front.ends_with(['-', '.', '_'])),
                has_word(&path, &choice),
            ];
            match fits.iter().position(|&fits| fits) {
                Some(rank) if rank < best.0 => best = (rank, vec![model]),
                Some(rank) if rank == best.0 => best.1.push(model),
                _ => {}
            }
        }
        best.1
    }

    fn files(&self, (path, count): &Model) -> Vec<String> {
        match *count {
            None => vec![path.clone()],
            Some(count) => (0..count).map(|number| split::name_of(path, number, count)).collect(),
        }
    }

    /// How to choose each, in order.
    fn list(&self, models: &[&Model]) -> Vec<String> {
        let mut listed: Vec<String> = models.iter().take(MAX_LISTED).map(|model| self.shortest(model)).collect();
        listed.sort();
        if models.len() > MAX_LISTED {
            listed.push(format!("{} more", models.len() - MAX_LISTED));
        }
        listed
    }

    /// The shortest end of a name that means it alone.
    fn shortest(&self, model: &Model) -> String {
        let path = stem(&model.0);
        let name = file_name(path);
        let ends = name.char_indices().rev().filter(|&(_, c)| c == '-' || c == '.').map(|(at, _)| &name[at + 1..]);
        let means = |end: &&str| !end.is_empty() && self.find(end) == [model];
        ends.chain([name]).find(means).unwrap_or(path).to_owned()
    }
}

/// Whether a text is in a path, and neither goes on.
fn has_word(path: &str, word: &str) -> bool {
    path.match_indices(word).any(|(at, _)| {
        let (front, behind) = (&path[..at], &path[at + word.len()..]);
        let ends = |c: char| "-./ ".contains(c);
        !word.is_empty()
            && (front.is_empty() || front.ends_with(|c| ends(c) || c == '_'))
            && (behind.is_empty() || behind.starts_with(ends))
    })
}

/// A path without `.gguf`, and without the number of a part.
fn stem(path: &str) -> &str {
    if let Some(place) = split::place(path) {
        return place.prefix;
    }
    let end = path.len().saturating_sub(ENDING.len());
    match path.is_char_boundary(end) && path[end..].eq_ignore_ascii_case(ENDING) {
        true => &path[..end],
        false => path,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests;
