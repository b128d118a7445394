// What our filters and mingo's are known to disagree about, each with the reason. We are with MongoDB in all of them.
//
// Entries are asked in order, and only about questions that were answered differently; the first that applies explains the difference.
// One that none explains fails the test, and so does an entry that explains nothing any more.

// Whether the path of the filter leads through an array of the document.
const entersArray = (path, document) => {
  const steps = path.split(".");
  let value = document;
  for (const step of steps.slice(0, -1)) {
    value = value?.[step];
    if (Array.isArray(value)) return true;
  }
  return false;
};

// Whether an array within an array of the document holds a null.
const hasNestedNull = (value, arrays = 0) => {
  if (value === null) return arrays > 1;
  if (typeof value !== "object") return false;
  return Object.values(value).some((inner) => hasNestedNull(inner, Array.isArray(value) ? arrays + 1 : 0));
};

export const differences = [
  {
    name: "integers beyond 2^53",
    reason: "JavaScript rounds them to doubles; here they are compared exactly",
    applies: ({ text, path, document }) => /\d{16}/.test(text) && /\d{16}/.test(JSON.stringify(document[path.split(".")[0]])),
  },
  {
    name: "$all on a single value",
    reason: "mingo demands an array; MongoDB reads $all as one equality for each value, which a single value can satisfy",
    applies: ({ text }) => text.includes('"$all"'),
  },
  {
    name: "$mod of what is no whole number",
    reason: "mingo calculates with null and dates as numbers and keeps fractions; MongoDB takes numbers only and drops fractions",
    applies: ({ text }) => text.includes('"$mod"'),
  },
  {
    name: "ranges up to null",
    reason: "$gte and $lte null match what is missing in MongoDB, in mingo they do not",
    applies: ({ text }) => /"\$[gl]te":null/.test(text),
  },
  {
    name: "ranges of objects and arrays",
    reason: "MongoDB compares them member by member and element by element, as a whole; mingo has rules of its own",
    applies: ({ text }) => /"\$[gl]te?":(\[|\{(?!"\$date"))/.test(text),
  },
  {
    name: "paths through arrays",
    reason:
      "mingo gathers what a path leads to into one array, also out of arrays within arrays, and drops what is missing; MongoDB asks " +
      "each place by itself, and a missing one is null",
    applies: ({ path, document }) => entersArray(path, document),
  },
  {
    name: "$elemMatch with a filter",
    reason: "mingo asks elements that are no objects, too",
    applies: ({ text }) => text.includes('"$elemMatch"'),
  },
  {
    name: "an array in a list of values",
    reason: "mingo does not always find it; in MongoDB $in compares whole arrays, too",
    applies: ({ text }) => /"\$n?in":\[.*\[/.test(text),
  },
  {
    name: "null in arrays within arrays",
    reason: "mingo looks into them; MongoDB compares elements, not their elements",
    applies: ({ text, document }) => /:null\}/.test(text) && hasNestedNull(document),
  },
  {
    name: "$regex on arrays within arrays",
    reason: "mingo looks into them; MongoDB searches elements, not their elements",
    applies: ({ text }) => text.includes('"$regex"'),
  },
];
