// SPDX-License-Identifier: Apache-2.0

package meta

import "strings"

// Nearest returns the candidate that word was probably meant to be, or "" if
// none is near: letter case does not count, and at most a third of the letters
// may be wrong, missing or swapped.
func Nearest(word string, candidates []string) string {
	limit := 1 + len(word)/3
	best := ""
	for _, candidate := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(candidate)); d < limit {
			best, limit = candidate, d
		}
	}
	return best
}

// DidYouMean is the hint for a misspelt word, or "" if no candidate is near.
func DidYouMean(word string, candidates []string) string {
	near := Nearest(word, candidates)
	if near == "" {
		return ""
	}
	return "Did you mean " + near + "?"
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours that make b of a (restricted Damerau-Levenshtein distance).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
