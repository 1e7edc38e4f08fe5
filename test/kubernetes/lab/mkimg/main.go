// SPDX-License-Identifier: Apache-2.0

// Command mkimg writes a container image of one layer from a directory:
//
//	mkimg -o image.tar [-entrypoint A,B] [-cmd A,B] DIR NAME...
//
// The archive is an OCI layout and a docker archive in one, so that ctr, podman
// and skopeo all read it.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// The media types of what an archive holds.
const (
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

// searchPath is the PATH of every image.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// descriptor refers to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

func describe(mediaType string, blob []byte) descriptor {
	sum := sha256.Sum256(blob)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(blob))}
}

// path is where a blob stands in the archive.
func (d descriptor) path() string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }

func main() {
	out := flag.String("o", "", "`archive` to write")
	entrypoint := flag.String("entrypoint", "", "entry point, words joined by commas")
	cmd := flag.String("cmd", "", "command, words joined by commas")
	flag.Parse()
	if flag.NArg() < 2 || *out == "" {
		fmt.Fprintln(os.Stderr, "usage: mkimg -o image.tar [-entrypoint A,B] [-cmd A,B] DIR NAME...")
		os.Exit(2)
	}
	if err := write(*out, flag.Arg(0), flag.Args()[1:], words(*entrypoint), words(*cmd)); err != nil {
		fmt.Fprintln(os.Stderr, "mkimg: error:", err)
		os.Exit(1)
	}
}

func words(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// fullName is the name the kubelet will look for when a manifest says s.
func fullName(s string) string {
	host, _, found := strings.Cut(s, "/")
	switch {
	case !found:
		s = "docker.io/library/" + s
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		s = "docker.io/" + s
	}
	if !strings.Contains(s[strings.LastIndex(s, "/"):], ":") {
		s += ":latest"
	}
	return s
}

// write makes the archive: the directory's files as the layer of an image with
// these names.
func write(out, dir string, names, entrypoint, cmd []string) error {
	layer, err := pack(dir)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	layerAt := describe(typeLayer, layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config":  map[string]any{"Entrypoint": entrypoint, "Cmd": cmd, "Env": []string{searchPath}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{layerAt.Digest}},
		"history": []any{map[string]any{"created_by": "mkimg"}},
	})
	if err != nil {
		return err
	}
	configAt := describe(typeConfig, config)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": configAt, "layers": []descriptor{layerAt},
	})
	if err != nil {
		return err
	}
	manifestAt := describe(typeManifest, manifest)
	index, legacy, err := indexes(names, manifestAt, configAt, layerAt)
	if err != nil {
		return err
	}
	return archive(out, []entry{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}, {"manifest.json", legacy},
		{layerAt.path(), layer}, {configAt.path(), config}, {manifestAt.path(), manifest},
	})
}

// indexes are the tables of contents, as OCI and as docker write them.
func indexes(names []string, manifest, config, layer descriptor) (oci, docker []byte, err error) {
	var full []string
	var list []descriptor
	for _, name := range names {
		name = fullName(name)
		full = append(full, name)
		d := manifest
		d.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
		d.Platform = map[string]string{"architecture": runtime.GOARCH, "os": "linux"}
		list = append(list, d)
	}
	oci, err1 := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": list})
	docker, err2 := json.Marshal([]any{map[string]any{"Config": config.path(), "RepoTags": full, "Layers": []string{layer.path()}}})
	return oci, docker, errors.Join(err1, err2)
}

// pack makes a layer of a directory, everything owned by root.
func pack(dir string) ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return add(w, path, name)
	})
	return layer.Bytes(), errors.Join(err, w.Close())
}

func add(w *tar.Writer, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&os.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.Format = name, 0, 0, "", "", tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// entry is a file of an archive.
type entry struct {
	name string
	data []byte
}

func archive(path string, entries []entry) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.data)), Typeflag: tar.TypeReg}); err != nil {
			return errors.Join(err, f.Close())
		}
		if _, err := w.Write(e.data); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(w.Close(), f.Close())
}
