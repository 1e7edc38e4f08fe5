#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Prints the packages tested with the race detector: all of our own but those
# whose tests build or start whole programs, which would not be instrumented.
go list ./api/... ./internal/... | grep -vE '/(cli|lab|cniplugin)(/|$)'
