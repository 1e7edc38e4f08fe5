// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ocicat-net/ocicat/internal/resource"
	"golang.org/x/sys/unix"
)

type (
	streamIn  = io.Reader
	streamOut = io.Writer
)

// style is a colour with a meaning; the zero style is plain.
type style string

// The styles, as parameters of the terminal's SGR sequence.
const (
	plain  style = ""
	good   style = "32"
	warned style = "33"
	bad    style = "31"
	dim    style = "2"
	strong style = "1"
)

// paint colours text for standard output, if that is a terminal.
func (g *globals) paint(s style, text string) string { return g.colour(g.stdout, s, text) }

// errPaint colours text for standard error, if that is a terminal.
func (g *globals) errPaint(s style, text string) string { return g.colour(g.stderr, s, text) }

func (g *globals) colour(to io.Writer, s style, text string) string {
	if s == plain || text == "" || g.noColor || g.Getenv("NO_COLOR") != "" || !isTerminal(to) {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// table is rows under a header, printed in columns without borders.
type table struct {
	header []string
	rows   [][]string
}

func newTable(header ...string) *table { return &table{header: header} }

// add appends a row; an empty cell is printed as nothing.
func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// columnGap stands between two columns.
const columnGap = 2

// write prints the table: every column as wide as its widest cell, nothing
// behind the last. Colour sequences do not count as width.
func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.header))
	all := append([][]string{t.header}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	var out bytes.Buffer
	for _, row := range all {
		last := len(row) - 1
		for last > 0 && row[last] == "" {
			last--
		}
		for i, cell := range row[:last+1] {
			out.WriteString(cell)
			if i < last {
				out.WriteString(strings.Repeat(" ", widths[i]-width(cell)+columnGap))
			}
		}
		out.WriteByte('\n')
	}
	_, err := w.Write(out.Bytes())
	return err
}

// width is the number of characters a cell takes on the screen.
func width(cell string) int {
	n := utf8.RuneCountInString(cell)
	for rest := cell; ; {
		_, after, found := strings.Cut(rest, "\x1b[")
		if !found {
			return n
		}
		params, tail, _ := strings.Cut(after, "m")
		n -= len("\x1b[") + len(params) + len("m")
		rest = tail
	}
}

// show prints value in the format of -o: as JSON or YAML, the names one a
// line, or the table that draw makes (wide with -o wide). A verb without names
// passes nil and prints the table for -o name.
func (g *globals) show(value any, names []string, draw func(wide bool) *table) error {
	switch g.output {
	case "json":
		enc := json.NewEncoder(g.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(value)
	case "yaml":
		text, err := resource.YAML(value)
		if err != nil {
			return err
		}
		_, err = g.stdout.Write(text)
		return err
	case "name":
		if names != nil {
			_, err := io.WriteString(g.stdout, lines(names))
			return err
		}
	}
	return draw(g.output == "wide").write(g.stdout)
}

func lines(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, "\n") + "\n"
}

// age prints how long ago t was in at most two units, "–" for the zero time.
func (g *globals) age(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return duration(g.Now().Sub(t))
}

// duration prints d as 12s, 3m02s, 4h05m or 6d07h.
func duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// line writes one line to standard output.
func (g *globals) line(format string, args ...any) {
	fmt.Fprintf(g.stdout, format+"\n", args...)
}

// note writes one line that is no result to standard error.
func (g *globals) note(format string, args ...any) {
	fmt.Fprintf(g.stderr, format+"\n", args...)
}
