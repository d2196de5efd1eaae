//! Rows that stand in the data more than once, and questions that have several answers.
//!
//! A row that a run takes several times on purpose (`num_samples` beyond the file, `mix_strategy: interleave_over`) stands in the
//! data once. "First" is in the order of the files, whatever the split shuffled.

use super::{Example, Origin, encode::Row, record::Record};
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

/// Training rows that are the same as an earlier one, token by token: each with the first that is the same.
pub fn repeats(train: &[Example]) -> Vec<(Origin, Origin)> {
    let mut order: Vec<&Example> = train.iter().collect();
    order.sort_by_key(|row| row.origin);
    let mut first: HashMap<&[u32], Origin> = HashMap::with_capacity(train.len());
    let mut repeats = vec![];
    let mut last = None;
    for Example { input_ids, origin, .. } in order {
        if last.replace(origin) == Some(origin) {
            continue;
        }
        match first.entry(input_ids) {
            Entry::Vacant(entry) => drop(entry.insert(*origin)),
            Entry::Occupied(entry) => repeats.push((*origin, *entry.get())),
        }
    }
    repeats
}

/// Every row of the files once, in their order.
pub fn distinct(rows: &[Row]) -> Vec<&Row> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| row.origin);
    rows.dedup_by_key(|row| row.origin);
    rows
}

/// The rows of every question that has more than one answer, in the order of the first of each.
pub fn contradictions<'r>(rows: &[&'r Row]) -> Vec<Vec<&'r Row>> {
    let mut by_question: HashMap<_, Vec<usize>> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        by_question.entry(question(&row.record)).or_default().push(i);
    }
    let answer = |i: &usize| rows[*i].record.response.as_str();
    let differ = |same: &Vec<usize>| same.iter().any(|i| answer(i) != answer(&same[0]));
    let mut found: Vec<Vec<usize>> = by_question.into_values().filter(differ).collect();
    found.sort_unstable();
    found.into_iter().map(|same| same.into_iter().map(|i| rows[i]).collect()).collect()
}

/// All that is said to the model.
fn question(record: &Record) -> impl Hash + Eq {
    (&record.prompt, &record.query, &record.system, &record.tools, &record.history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: usize, query: &str, response: &str) -> Row {
        let record = Record { query: query.into(), response: response.into(), ..Record::default() };
        Row { origin: Origin { dataset: 0, row }, record }
    }

    #[test]
    fn rows_that_stand_twice_are_found_in_file_order_and_a_row_that_was_drawn_twice_is_not() {
        let example = |ids: &[u32], row| Example::new(ids.to_vec(), ids, Origin { dataset: 0, row });
        let train = [
            example(&[1, 2], 4),
            example(&[3], 2),
            example(&[1, 2], 1),
            example(&[3], 2),
            example(&[1, 2], 3),
            example(&[1, 2], 4),
        ];
        let rows: Vec<_> = repeats(&train).iter().map(|(again, first)| (again.row, first.row)).collect();
        assert_eq!(rows, [(3, 1), (4, 1)]);
        assert_eq!(repeats(&[]), []);
    }

    #[test]
    fn questions_with_several_answers() {
        let mut rows =
            vec![row(5, "雨", "云"), row(1, "雨", "风"), row(2, "天", "地"), row(3, "天", "地"), row(1, "雨", "风")];
        let places = |rows: &[&Row]| rows.iter().map(|row| row.origin.row).collect::<Vec<_>>();
        assert_eq!(places(&distinct(&rows)), [1, 2, 3, 5]);
        let found = |rows: &[Row]| contradictions(&distinct(rows)).iter().map(|same| places(same)).collect::<Vec<_>>();
        assert_eq!(found(&rows), [[1, 5]]);
        rows[0].record.prompt = "对".into();
        assert!(found(&rows).is_empty(), "another instruction is another question");
    }
}
