// SPDX-License-Identifier: Apache-2.0

// Package ocicat holds the house rules that a machine can check. CONTRIBUTING.md
// says what they are for.
package ocicat

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxLines is the length at which a file wants to be two.
const maxLines = 600

// source is one parsed Go file.
type source struct {
	path   string // from the module's root, with slashes
	set    *token.FileSet
	syntax *ast.File
}

// dir is the package's directory.
func (s source) dir() string { return filepath.ToSlash(filepath.Dir(s.path)) }

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// at is file and line of a node.
func (s source) at(n ast.Node) string { return s.set.Position(n.Pos()).String() }

// imports are the paths a file imports.
func (s source) imports() []string {
	var paths []string
	for _, spec := range s.syntax.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// files are the files of the project: those git knows or would add, or all
// where there is no git.
func files(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err == nil {
		var list []string
		for _, path := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
			if _, err := os.Stat(path); err == nil { // not deleted
				list = append(list, path)
			}
		}
		return list
	}
	var list []string
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return fs.SkipDir
		case !d.IsDir():
			list = append(list, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// sources are the project's Go files, parsed.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	for _, path := range files(t) {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata/") {
			continue
		}
		set := token.NewFileSet()
		syntax, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		list = append(list, source{path, set, syntax})
	}
	return list
}

func TestFilesSayTheirLicence(t *testing.T) {
	for _, path := range files(t) {
		name := filepath.Base(path)
		if ext := filepath.Ext(name); ext != ".go" && ext != ".sh" && name != "Makefile" && path != ".ci/run" {
			continue
		}
		text := read(t, path)
		if strings.HasPrefix(text, "#!") {
			_, text, _ = strings.Cut(text, "\n")
		}
		line, _, _ := strings.Cut(text, "\n")
		if line != "// SPDX-License-Identifier: Apache-2.0" && line != "# SPDX-License-Identifier: Apache-2.0" {
			t.Errorf("%s: the first line is %q, want the SPDX line", path, line)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, path := range files(t) {
		if filepath.Ext(path) != ".go" {
			continue
		}
		if n := strings.Count(read(t, path), "\n"); n > maxLines {
			t.Errorf("%s: %d lines, want at most %d: which two things does it do?", path, n, maxLines)
		}
	}
}

// elsewhere finds paths that exist on one machine only.
var elsewhere = regexp.MustCompile(`(^|[^A-Za-z0-9_.$}-])(/(work|farm|root|home)/[a-z]|(\.\./)*shared/[a-zA-Z])`)

func TestNoPathsOfOneMachine(t *testing.T) {
	for _, path := range files(t) {
		if path == "house_test.go" || filepath.Base(path) == "go.sum" || strings.Contains(path, "testdata/") {
			continue
		}
		for n, line := range strings.Split(read(t, path), "\n") {
			if found := elsewhere.FindString(line); found != "" {
				t.Errorf("%s:%d: path of one machine %q", path, n+1, found)
			}
		}
	}
}

// vague are names that say nothing of what a package owns.
var vague = []string{
	"util", "utils", "common", "types", "helper", "helpers", "misc", "base", "lib", "manager", "model", "models", "shared", "constants",
}

func TestPackagesOwnSomething(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		name := strings.TrimSuffix(s.syntax.Name.Name, "_test")
		if slices.Contains(vague, name) {
			t.Errorf("%s: package %s: name it after what it owns", s.path, name)
		}
		if s.isTest() && s.dir() != "." {
			continue
		}
		documented[s.dir()] = documented[s.dir()] || s.syntax.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

func TestExportedIsDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() || s.syntax.Name.Name == "main" {
			continue
		}
		for _, decl := range s.syntax.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Doc == nil && decl.Name.IsExported() && exportedReceiver(decl) {
					t.Errorf("%s: %s has no comment", s.at(decl), decl.Name.Name)
				}
			case *ast.GenDecl:
				undocumented(t, s, decl)
			}
		}
	}
}

// exportedReceiver says whether a function can be reached by its name from
// other packages.
func exportedReceiver(decl *ast.FuncDecl) bool {
	if decl.Recv == nil {
		return true
	}
	typ := decl.Recv.List[0].Type
	for {
		switch at := typ.(type) {
		case *ast.StarExpr:
			typ = at.X
		case *ast.IndexExpr:
			typ = at.X
		case *ast.IndexListExpr:
			typ = at.X
		case *ast.Ident:
			return at.IsExported()
		default:
			return true
		}
	}
}

// undocumented reports exported types, constants and variables without a
// comment of their own, beside them, or above their group; and methods of
// interfaces.
func undocumented(t *testing.T, s source, decl *ast.GenDecl) {
	t.Helper()
	for _, spec := range decl.Specs {
		switch spec := spec.(type) {
		case *ast.ValueSpec:
			if decl.Doc == nil && spec.Doc == nil && spec.Comment == nil && slices.ContainsFunc(spec.Names, (*ast.Ident).IsExported) {
				t.Errorf("%s: %s has no comment", s.at(spec), spec.Names[0].Name)
			}
		case *ast.TypeSpec:
			if !spec.Name.IsExported() {
				continue
			}
			if decl.Doc == nil && spec.Doc == nil {
				t.Errorf("%s: %s has no comment", s.at(spec), spec.Name.Name)
			}
			methods, ok := spec.Type.(*ast.InterfaceType)
			if !ok {
				continue
			}
			for _, m := range methods.Methods.List {
				if len(m.Names) > 0 && m.Names[0].IsExported() && m.Doc == nil && m.Comment == nil {
					t.Errorf("%s: method %s has no comment", s.at(m), m.Names[0].Name)
				}
			}
		}
	}
}

// vagueError finds texts that say an attempt failed instead of what it was.
var vagueError = regexp.MustCompile(`(?i)failed to |unable to |error while `)

func TestErrorsReadAsPaths(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !slices.Contains([]string{"fmt.Errorf", "errors.New", "fault.New"}, called(call)) {
				return true
			}
			for _, arg := range call.Args {
				lit, ok := arg.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					continue
				}
				text := lit.Value[1 : len(lit.Value)-1]
				if vagueError.MatchString(text) || strings.HasSuffix(text, ".") {
					t.Errorf("%s: error text %s: say what was attempted, without a full stop", s.at(lit), lit.Value)
				}
			}
			return true
		})
	}
}

func TestNoGlobalMachinery(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, decl := range s.syntax.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init: wire it where the program is put together", s.at(f))
			}
			if strings.HasPrefix(f.Name.Name, "must") || f.Body == nil {
				continue
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				switch name := called(call); {
				case name == "panic":
					t.Errorf("%s: panic outside a must function: return an error", s.at(call))
				case s.syntax.Name.Name != "main" && (name == "os.Exit" || strings.HasPrefix(name, "log.Fatal")):
					t.Errorf("%s: %s outside main: return an error", s.at(call), name)
				}
				return true
			})
		}
	}
}

func TestTestsNeitherSleepNorSkipSilently(t *testing.T) {
	for _, s := range sources(t) {
		if !s.isTest() {
			continue
		}
		// With synctest the clock is the test's, and sleep is what moves it.
		fake := slices.Contains(s.imports(), "testing/synctest")
		allowed := fakeClockLines(s)
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			if poll, ok := n.(*ast.ForStmt); ok && poll.Cond != nil && poll.Post != nil {
				allowed[s.set.Position(poll.Post.Pos()).Line] = true // it waits for the condition
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch name := called(call); {
			case name == "time.Sleep" && !fake && !allowed[s.set.Position(call.Pos()).Line]:
				t.Errorf("%s: wait for a condition, or test with synctest", s.at(call))
			case strings.HasSuffix(name, ".SkipNow"), strings.HasSuffix(name, ".Skip") && !named(call), strings.HasSuffix(name, ".Skipf") && !named(call):
				t.Errorf("%s: skip without a reason in its text", s.at(call))
			}
			return true
		})
	}
}

// fakeClockLines are the lines that say that their clock is a synctest
// bubble's, though the file does not show it.
func fakeClockLines(s source) map[int]bool {
	lines := map[int]bool{}
	for _, group := range s.syntax.Comments {
		for _, c := range group.List {
			if c.Text == "//ocicat:fake-clock" {
				lines[s.set.Position(c.Pos()).Line] = true
			}
		}
	}
	return lines
}

// named says whether a skip gives a reason.
func named(call *ast.CallExpr) bool {
	if len(call.Args) == 0 {
		return false
	}
	lit, ok := call.Args[0].(*ast.BasicLit)
	return !ok || len(lit.Value) > 4
}

// called is the name of a called function as written, "fmt.Errorf" or "panic".
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
		return "." + f.Sel.Name
	}
	return ""
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// selectors are the qualified names in a file, "net.IP".
func selectors(s source) []string {
	var names []string
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok {
				names = append(names, x.Name+"."+sel.Sel.Name)
			}
		}
		return true
	})
	return names
}
