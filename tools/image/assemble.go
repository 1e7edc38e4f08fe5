// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// platformImage is the image of one architecture.
type platformImage struct {
	arch  string
	about about
	image v1.Image
}

// assemble makes an image of the programs in dir.
func assemble(dir, arch string, a about) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, content := range [][]file{references(), programs()} {
		layer, err := layerOf(dir, content)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
			Created: v1.Time{Time: a.created}, CreatedBy: "ocicat tools/image", Comment: content[0].program + " and others",
		}})
		if err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = arch, "linux"
	if arch == "arm64" {
		config.Variant = "v8"
	}
	config.Created = v1.Time{Time: a.created}
	config.Config = v1.Config{
		Entrypoint: []string{"/ocicatd"},
		Env:        []string{"PATH=/"}, // for "kubectl exec … ocicat"
		WorkingDir: "/",
		Labels:     annotations(a),
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(img, annotations(a)).(v1.Image), nil
}

// annotations are those of the OCI image specification.
func annotations(a about) map[string]string {
	const prefix = "org.opencontainers.image."
	all := map[string]string{
		"title":       "Ocicat",
		"description": "Plain layer 3 networking for Kubernetes over BGP: agent, command line and CNI plugins",
		"url":         "https://github.com/ocicat-net/ocicat",
		"source":      "https://github.com/ocicat-net/ocicat",
		"licenses":    "Apache-2.0",
		"version":     a.version,
		"revision":    a.revision,
		"created":     a.created.Format(time.RFC3339),
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	full := map[string]string{}
	for name, value := range all {
		full[prefix+name] = value
	}
	return full
}

// layerOf is a layer of programs and the directories above them, all root's
// and of the beginning of time.
func layerOf(dir string, content []file) (v1.Layer, error) {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, parent := range parents(content) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: parent + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
	}
	for _, f := range content {
		program, err := os.ReadFile(filepath.Join(dir, f.program))
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(program); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// parents are the directories above files, each before those in it.
func parents(content []file) []string {
	set := map[string]bool{}
	for _, f := range content {
		for dir := path.Dir(f.path); dir != "."; dir = path.Dir(dir) {
			set[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
