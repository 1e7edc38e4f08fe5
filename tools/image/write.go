// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// write writes the layout and the archives, and prints what they are.
func write(o options, built []platformImage) error {
	reference, err := name.NewTag(o.name + ":" + o.tag)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(o.out); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	index := mutate.IndexMediaType(mutate.Annotations(empty.Index, annotations(built[0].about)).(v1.ImageIndex), types.OCIImageIndex)
	for _, b := range built {
		config, err := b.image.ConfigFile()
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: b.image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
		archive := filepath.Join(o.out, "ocicat-"+b.arch+".tar")
		if err := tarball.WriteToFile(archive, reference, b.image); err != nil {
			return fmt.Errorf("write %s: %w", archive, err)
		}
		if err := report(b); err != nil {
			return err
		}
	}
	if err := writeLayout(filepath.Join(o.out, "oci"), index, reference); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("image\t%s@%s\n", reference, digest)
	return nil
}

// writeLayout writes an OCI layout that holds one index under a name; the
// second annotation is containerd's.
func writeLayout(dir string, index v1.ImageIndex, reference name.Tag) error {
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return at.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": reference.TagStr(),
		"io.containerd.image.name":          reference.Name(),
	}))
}

// report prints an architecture's digest and what is transferred of it.
func report(b platformImage) error {
	digest, err := b.image.Digest()
	if err != nil {
		return err
	}
	layers, err := b.image.Layers()
	if err != nil {
		return err
	}
	var size int64
	for _, layer := range layers {
		n, err := layer.Size()
		if err != nil {
			return err
		}
		size += n
	}
	fmt.Printf("%s\t%s\t%.1f MB compressed\n", b.arch, digest, float64(size)/1e6)
	return nil
}
