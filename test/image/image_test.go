// SPDX-License-Identifier: Apache-2.0

// Package image tests the container image: its bytes by reading the OCI layout
// without the library that wrote it, and its programs by running them in it.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/test/labtest"
)

// maxCompressed is what a node may have to fetch, in bytes.
const maxCompressed = 40 << 20

// contents are the image's files and their modes.
var contents = map[string]fs.FileMode{
	"ocicat": 0o755, "ocicatd": 0o755,
	"opt/ocicat/bin/ocicat-cni": 0o755, "opt/ocicat/bin/portmap": 0o755, "opt/ocicat/bin/bandwidth": 0o755, "opt/ocicat/bin/loopback": 0o755,
}

// built is the directory the image was built into, once for all tests.
var built string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ocicat-image-test-")
	if err == nil {
		built = filepath.Join(dir, "image")
		err = build(filepath.Join(dir, "sources"), built, "amd64,arm64")
	}
	code := 1
	if err == nil {
		code = labtest.Main(m)
	} else {
		fmt.Fprintln(os.Stderr, "build the image:", err)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build copies the sources to a directory, where nobody changes them
// meanwhile, and builds an image of them.
func build(sources, image, architectures string) error {
	list, err := exec.Command("git", "-C", "../..", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return err
	}
	for _, path := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join("../..", path))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted and not committed yet
		}
		target := filepath.Join(sources, path)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, content, 0o644)); err != nil {
			return err
		}
	}
	return compile(sources, image, architectures)
}

// compile runs the builder that stands beside the sources.
func compile(sources, image, architectures string) error {
	cmd := exec.Command("go", "-C", filepath.Join(sources, "tools/image"), "run", ".", "-o", image, "-tag", "test", "-arch", architectures)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// descriptor is a part of an OCI layout (image-spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    struct{ Architecture, OS string }
}

// document is an index or a manifest.
type document struct {
	MediaType   string            `json:"mediaType"`
	Manifests   []descriptor      `json:"manifests"`
	Config      descriptor        `json:"config"`
	Layers      []descriptor      `json:"layers"`
	Annotations map[string]string `json:"annotations"`
}

// config is an image's configuration.
type config struct {
	Architecture, OS, Created string
	Config                    struct {
		Entrypoint, Env []string
		Labels          map[string]string
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// blob reads a part and checks that it is the one that is meant.
func blob(t *testing.T, layout string, d descriptor) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(layout, "blobs", strings.Replace(d.Digest, ":", "/", 1)))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	if d.Digest != "sha256:"+hex.EncodeToString(sum[:]) || d.Size != int64(len(content)) {
		t.Errorf("%s: content differs from its descriptor", d.Digest)
	}
	return content
}

func decode(t *testing.T, content []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatal(err)
	}
}

// index reads the one index of a layout.
func index(t *testing.T, dir string) (top descriptor, all document) {
	t.Helper()
	layout := filepath.Join(dir, "oci")
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var outer document
	decode(t, raw, &outer)
	if len(outer.Manifests) != 1 {
		t.Fatalf("%d manifests in index.json, want 1", len(outer.Manifests))
	}
	decode(t, blob(t, layout, outer.Manifests[0]), &all)
	return outer.Manifests[0], all
}

// image is one architecture's, read whole.
type image struct {
	manifest   document
	config     config
	compressed int64
	files      map[string]*tar.Header
	content    map[string][]byte
}

func read(t *testing.T, architecture string) image {
	t.Helper()
	layout := filepath.Join(built, "oci")
	_, all := index(t, built)
	at := slices.IndexFunc(all.Manifests, func(d descriptor) bool { return d.Platform.Architecture == architecture && d.Platform.OS == "linux" })
	if at < 0 {
		t.Fatalf("no image for %s", architecture)
	}
	img := image{files: map[string]*tar.Header{}, content: map[string][]byte{}}
	decode(t, blob(t, layout, all.Manifests[at]), &img.manifest)
	decode(t, blob(t, layout, img.manifest.Config), &img.config)
	for n, layer := range img.manifest.Layers {
		packed := blob(t, layout, layer)
		img.compressed += int64(len(packed))
		unpacked, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(unpacked)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(raw); img.config.RootFS.DiffIDs[n] != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("layer %d is not the one the configuration names", n)
		}
		img.untar(t, raw)
	}
	return img
}

func (i image) untar(t *testing.T, layer []byte) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		header, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		i.files[header.Name], i.content[header.Name] = header, content
	}
}

func TestContents(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for architecture, machine := range machines {
		img := read(t, architecture)
		if img.compressed > maxCompressed {
			t.Errorf("%s: %d bytes compressed, want at most %d", architecture, img.compressed, maxCompressed)
		}
		t.Logf("%s: %.1f MB compressed", architecture, float64(img.compressed)/1e6)
		found := map[string]fs.FileMode{}
		for name, header := range img.files {
			if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 {
				t.Errorf("%s: %s is of %d:%d and of %s", architecture, name, header.Uid, header.Gid, header.ModTime)
			}
			if header.Typeflag == tar.TypeDir {
				continue
			}
			found[name] = header.FileInfo().Mode()
			program, err := elf.NewFile(bytes.NewReader(img.content[name]))
			if err != nil {
				t.Errorf("%s: %s: %v", architecture, name, err)
				continue
			}
			interpreted := slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
			if program.Machine != machine || interpreted {
				t.Errorf("%s: %s is for %s, interpreted: %t", architecture, name, program.Machine, interpreted)
			}
		}
		if diff := cmp.Diff(contents, found); diff != "" {
			t.Errorf("%s (-want +got):\n%s", architecture, diff)
		}
	}
}

func TestMetadata(t *testing.T) {
	top, all := index(t, built)
	if got := top.Annotations["io.containerd.image.name"]; got != "ghcr.io/ocicat-net/ocicat:test" {
		t.Errorf("name in the layout is %q", got)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		img := read(t, architecture)
		if img.config.Architecture != architecture || img.config.OS != "linux" || !slices.Equal(img.config.Config.Entrypoint, []string{"/ocicatd"}) {
			t.Errorf("%s: configuration %+v", architecture, img.config)
		}
		for where, values := range map[string]map[string]string{"index": all.Annotations, "manifest": img.manifest.Annotations, "labels": img.config.Config.Labels} {
			for _, name := range []string{"title", "description", "url", "source", "licenses", "version", "created"} {
				if values["org.opencontainers.image."+name] == "" {
					t.Errorf("%s: %s without %s: %v", architecture, where, name, values)
				}
			}
		}
	}
}

// TestSameBytes builds the sources of the first image again at another place
// and compares what is loaded and what is pulled.
func TestSameBytes(t *testing.T) {
	again := t.TempDir()
	sources := filepath.Join(again, "sources")
	if err := os.CopyFS(sources, os.DirFS(filepath.Join(filepath.Dir(built), "sources"))); err != nil {
		t.Fatal(err)
	}
	if err := compile(sources, filepath.Join(again, "image"), runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	archive := "ocicat-" + runtime.GOARCH + ".tar"
	if sum(t, filepath.Join(built, archive)) != sum(t, filepath.Join(again, "image", archive)) {
		t.Errorf("two builds of the same sources differ in %s", archive)
	}
	pulled := func(dir string) string {
		_, all := index(t, dir)
		for _, d := range all.Manifests {
			if d.Platform.Architecture == runtime.GOARCH {
				return d.Digest
			}
		}
		return ""
	}
	if one, other := pulled(built), pulled(filepath.Join(again, "image")); one != other || one == "" {
		t.Errorf("digests of two builds of the same sources: %s and %s", one, other)
	}
}

// sum is a file's checksum.
func sum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}
