// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Limits of what Parse accepts.
const (
	maxLabel = 512 // bytes of a label's name, as Calico's
	maxDepth = 256 // nested parentheses and negations, so that a selector cannot exhaust the stack
)

// Parse reads a selector; an empty one is all(). Errors are Invalid, name the
// place and carry a hint.
func Parse(s string) (Selector, error) {
	p := parser{text: s}
	p.space()
	if p.rest() == "" {
		return Selector{}, nil
	}
	root, err := p.either()
	if err == nil && p.rest() != "" {
		err = p.fail("&&, || or the end")
	}
	if err != nil {
		return Selector{}, fault.Hint(fault.New(fault.Invalid, "selector %q: %w", s, err),
			"selectors look like: has(zone) && env in {'prod', 'dev'} && !(tier == 'db')")
	}
	return Selector{root: root}, nil
}

// parser reads text from at on. Between two calls at stands behind any space.
type parser struct {
	text  string
	at    int
	depth int
}

func (p *parser) rest() string { return p.text[p.at:] }

func (p *parser) space() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t') {
		p.at++
	}
}

// take skips token and the space behind it, if it comes next.
func (p *parser) take(token string) bool {
	if !strings.HasPrefix(p.rest(), token) {
		return false
	}
	p.at += len(token)
	p.space()
	return true
}

func (p *parser) fail(want string) error {
	rest := p.rest()
	if rest == "" {
		return fault.New(fault.Invalid, "ends where %s should follow", want)
	}
	if len(rest) > 20 {
		rest = rest[:20] + "…"
	}
	return fault.New(fault.Invalid, "at byte %d: %q where %s should stand", p.at+1, rest, want)
}

func (p *parser) either() (node, error) { return p.list("||", p.both) }
func (p *parser) both() (node, error)   { return p.list("&&", p.one) }

// list reads one or more parts with op between them.
func (p *parser) list(op string, part func() (node, error)) (node, error) {
	var of []node
	for {
		n, err := part()
		if err != nil {
			return nil, err
		}
		if of = append(of, n); !p.take(op) {
			break
		}
	}
	if len(of) == 1 {
		return of[0], nil
	}
	return many{op: op, of: of}, nil
}

// one reads a test or a selector in parentheses, negated or not. Signs of
// negation in a row cancel out.
func (p *parser) one() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, fault.New(fault.Invalid, "at byte %d: nested more than %d deep", p.at+1, maxDepth)
	}
	defer func() { p.depth-- }()
	negated := false
	for p.take("!") {
		negated = !negated
	}
	n, err := p.positive()
	if err == nil && negated {
		n = not{n}
	}
	return n, err
}

func (p *parser) positive() (node, error) {
	if p.take("(") {
		n, err := p.either()
		if err == nil && !p.take(")") {
			err = p.fail("a closing parenthesis")
		}
		return n, err
	}
	for _, word := range []string{"all", "global"} {
		if p.take(word + "(") {
			if !p.take(")") {
				return nil, p.fail("a closing parenthesis")
			}
			return everything{word}, nil
		}
	}
	if p.take("has(") {
		label, err := p.label()
		if err == nil && !p.take(")") {
			err = p.fail("a closing parenthesis")
		}
		return has{label}, err
	}
	label, err := p.label()
	if err != nil {
		return nil, err
	}
	return p.test(label)
}

// test reads what follows the label in a comparison.
func (p *parser) test(label string) (node, error) {
	for _, op := range []string{"==", "!=", "contains"} {
		if p.take(op) {
			value, err := p.value()
			return compare{label, op, value}, err
		}
	}
	for _, word := range []string{"starts", "ends"} {
		if p.take(word) {
			if !p.take("with") {
				return nil, p.fail(`"with"`)
			}
			value, err := p.value()
			return compare{label, word + " with", value}, err
		}
	}
	negated := p.take("not")
	if !p.take("in") {
		if negated {
			return nil, p.fail(`"in"`)
		}
		return nil, p.fail("one of ==, !=, in, not in, contains, starts with, ends with")
	}
	values, err := p.set()
	return member{label, negated, values}, err
}

func (p *parser) label() (string, error) {
	n := 0
	for n < len(p.rest()) && isLabel(p.rest()[n]) {
		n++
	}
	label := p.rest()[:n]
	switch {
	case n == 0:
		return "", p.fail("a label, has(), all() or a parenthesis")
	case n > maxLabel:
		return "", fault.New(fault.Invalid, "at byte %d: a label of %d bytes, at most %d are allowed", p.at+1, n, maxLabel)
	}
	p.at += n
	p.space()
	return label, nil
}

func isLabel(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

// value reads a text in single or double quotes; there are no escapes.
func (p *parser) value() (string, error) {
	rest := p.rest()
	if rest == "" || (rest[0] != '\'' && rest[0] != '"') {
		return "", p.fail("a text in quotes")
	}
	n := strings.IndexByte(rest[1:], rest[0])
	if n < 0 {
		return "", fault.New(fault.Invalid, "at byte %d: the quote is never closed", p.at+1)
	}
	p.at += n + 2
	p.space()
	return rest[1 : n+1], nil
}

// set reads texts in braces, with commas between them; one more at the end
// does no harm.
func (p *parser) set() ([]string, error) {
	if !p.take("{") {
		return nil, p.fail("a set in braces")
	}
	values := []string{}
	for !p.take("}") {
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		values = append(values, value)
		if !p.take(",") && !strings.HasPrefix(p.rest(), "}") {
			return nil, p.fail("a comma or a closing brace")
		}
	}
	slices.Sort(values)
	return slices.Compact(values), nil
}
