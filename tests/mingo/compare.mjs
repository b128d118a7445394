// Asks mingo the questions of the file that is the argument, and compares its answers with those in the file.
//
// {"documents":[…],"questions":[{"filter":…,"matched":[places of documents]}]}, each filter about one path.

import { readFileSync } from "node:fs";
import { Query } from "mingo";
import { differences } from "./differences.mjs";

const SHOWN_MAX = 20;

// Known reasons are wide; were they to explain more than this, they would hide something.
const SHARE_MAX = 0.07;

// Texts of moments become dates, as a driver of MongoDB would have stored them. No other text in the file has this form.
const revive = (value) => {
  if (typeof value === "string") {
    if (/^-?\d{4}-\d\d-\d\d(T.*Z)?$/.test(value)) return new Date(value);
    if (/^\d\d:\d\d:\d\d.*Z$/.test(value)) return new Date(`1970-01-01T${value}`);
    return value;
  }
  if (Array.isArray(value)) return value.map(revive);
  if (value === null || typeof value !== "object") return value;
  if ("$date" in value) return new Date(value.$date);
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, revive(member)]));
};

const { documents, questions } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const revived = documents.map(revive);
const explained = new Map(differences.map((difference) => [difference, 0]));
let compared = 0;
const unexplained = [];
for (const { filter, matched } of questions) {
  const expected = new Set(matched);
  let query;
  let failure;
  try {
    query = new Query(revive(filter));
  } catch (error) {
    failure = String(error.message);
  }
  revived.forEach((document, at) => {
    compared += 1;
    let answer = failure;
    if (query) {
      try {
        answer = query.test(document);
      } catch (error) {
        answer = String(error.message);
      }
    }
    if (answer === expected.has(at)) return;
    const [path] = Object.keys(filter);
    const question = { path, document: documents[at], answer, text: JSON.stringify(filter) };
    const difference = differences.find((known) => known.applies(question));
    if (difference) explained.set(difference, explained.get(difference) + 1);
    else unexplained.push(question);
  });
}

console.log(`compared ${compared}`);
for (const [difference, count] of explained) console.log(`${count} explained: ${difference.name}`);
for (const { text, document, answer } of unexplained.slice(0, SHOWN_MAX)) {
  console.log(`not explained: ${text} on ${JSON.stringify(document)}: mingo says ${answer}`);
}
const share = [...explained.values()].reduce((sum, count) => sum + count, 0) / compared;
console.log(`${share} of the answers differ for a known reason`);
const stale = [...explained].filter(([, count]) => count === 0);
for (const [difference] of stale) console.log(`explains nothing: ${difference.name}`);
console.log(`${unexplained.length} not explained`);
process.exitCode = unexplained.length > 0 || stale.length > 0 || share > SHARE_MAX ? 1 : 0;
