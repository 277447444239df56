//! `sluice verify`: whether this kernel takes the programs.

use anyhow::Result;
use serde::Serialize;

use super::output::{self, Format};
use crate::loader;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    program: &'static str,
    /// Instructions that the verifier walked through.
    instructions: Option<u32>,
    error: Option<String>,
}

/// Prints a row for each program. False if the kernel refuses one.
pub fn verify(format: Format) -> Result<bool> {
    let rows: Vec<Row> = loader::trial()?
        .into_iter()
        .map(|trial| Row {
            program: trial.program,
            instructions: trial.verified.as_ref().ok().copied(),
            error: trial.verified.err(),
        })
        .collect();
    output::print(format, &rows, || {
        let cells: Vec<_> = rows.iter().flat_map(cells).collect();
        output::table(["PROGRAM", "VERIFIED INSTRUCTIONS"], &cells)
    })?;
    Ok(rows.iter().all(|row| row.error.is_none()))
}

/// What the verifier says has many lines.
fn cells(row: &Row) -> Vec<[String; 2]> {
    let result = row.instructions.map(|count| count.to_string());
    let result = result.or_else(|| row.error.clone()).unwrap_or_default();
    let programs = std::iter::once(row.program).chain(std::iter::repeat(""));
    programs.zip(result.lines()).map(|(program, line)| [program.to_owned(), line.to_owned()]).collect()
}
