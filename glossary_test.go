// SPDX-License-Identifier: Apache-2.0

package ocicat

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const glossary = "docs/glossary.md"

// synonyms are the words the glossary rejects, with the one it wants instead.
func synonyms(t *testing.T) map[string]string {
	t.Helper()
	words := map[string]string{}
	var order []string
	for _, line := range strings.Split(read(t, glossary), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], "--") || strings.TrimSpace(cells[1]) == "word" {
			continue
		}
		word := strings.TrimSpace(cells[1])
		order = append(order, word)
		for _, synonym := range strings.Split(cells[3], ",") {
			if synonym = strings.TrimSpace(synonym); synonym != "" {
				words[synonym] = word
			}
		}
	}
	if len(order) == 0 || !slices.IsSorted(order) {
		t.Errorf("%s: want a table sorted by word, got %q", glossary, order)
	}
	return words
}

// code is what is quoted in a page or a comment: there other people's words
// are right.
var code = regexp.MustCompile("(?s)```.*?```|`[^`]*`|\\]\\([^)]*\\)|\"[^\"\n]*\"")

func TestOneWordForOneThing(t *testing.T) {
	words := synonyms(t)
	var patterns []string
	for synonym := range words {
		patterns = append(patterns, regexp.QuoteMeta(synonym)+"s?")
	}
	slices.Sort(patterns)
	banned := regexp.MustCompile(`(?i)\b(` + strings.Join(patterns, "|") + `)\b`)
	complain := func(where, text string) {
		for _, found := range banned.FindAllString(code.ReplaceAllString(text, ""), -1) {
			word := words[strings.TrimSuffix(strings.ToLower(found), "s")]
			t.Errorf("%s: %q: the glossary calls it %q", where, found, word)
		}
	}
	for _, file := range files(t) {
		if path.Ext(file) == ".md" && file != glossary && !strings.Contains(file, "testdata/") {
			complain(file, read(t, file))
		}
	}
	for _, s := range sources(t) {
		for _, group := range s.syntax.Comments {
			complain(s.at(group), group.Text())
		}
	}
}

// link is a link of a page to a file of the project.
var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for _, file := range files(t) {
		if path.Ext(file) != ".md" || strings.Contains(file, "testdata/") {
			continue
		}
		for _, found := range link.FindAllStringSubmatch(read(t, file), -1) {
			if _, err := os.Stat(path.Join(path.Dir(file), found[1])); err != nil {
				t.Errorf("%s: link to %s: %v", file, found[1], err)
			}
		}
	}
}
